//! Archives written out plainly, from front to back, to compare layouts with.
//!
//! Shares no code with the layouts: numbers are spelled out, and everything is in memory.

use archive::{ArchiveFormat, Diff, Form, Plan};
use serde_json::{Value, json};

use crate::support::Version;

pub(crate) fn archive(format: ArchiveFormat, version: &Version, plan: &Plan) -> Vec<u8> {
    match format {
        ArchiveFormat::Zip => zip(version, plan),
        ArchiveFormat::Tar => tar(version, plan),
    }
}

/// The text of `.longhaul/diff.json`.
pub(crate) fn document(plan: &Plan) -> Vec<u8> {
    let target = plan.target();
    let tree = target.tree();
    let base = plan.base().map(|base| base.tree());
    let diff = Diff::new(tree, base, plan.need());

    let mut ops = Vec::new();
    let with_executable = |position, mut op: Value| {
        if tree.executable(position) {
            op["executable"] = json!(true);
        }
        op
    };
    for position in plan.need().positions() {
        ops.push(with_executable(
            position,
            json!({"op": "add", "path": tree.path(position)}),
        ));
    }
    for it in &diff.duplicates {
        let op =
            json!({"op": "add", "path": tree.path(it.position), "entry": tree.path(it.source)});
        ops.push(with_executable(it.position, op));
    }
    for copy in &diff.copies {
        let from = base.unwrap().path(copy.from);
        let sha256 = tree.sha256(copy.to).to_string();
        let op = json!({"op": "copy", "path": tree.path(copy.to), "from": from, "sha256": sha256});
        ops.push(with_executable(copy.to, op));
    }
    for removal in &diff.removals {
        ops.push(json!({"op": "remove", "path": base.unwrap().path(*removal)}));
    }
    let from = plan
        .base()
        .map(|base| json!({"catalogue": base.digest().to_string(), "version": base.version()}));
    serde_json::to_vec(&json!({
        "format": "longhaul-diff/1",
        "pack": target.pack().as_str(),
        "version": target.version(),
        "catalogue": target.digest().to_string(),
        "from": from,
        "need": plan.need().name().to_string(),
        "ops": ops,
    }))
    .unwrap()
}

fn entries<'a>(version: &'a Version, plan: &'a Plan) -> Vec<(&'a str, &'a [u8], bool, Form)> {
    plan.need()
        .positions()
        .map(|position| {
            let (path, content, executable) = &version.files[position as usize];
            (
                path.as_str(),
                content.as_slice(),
                *executable,
                plan.forms().form(position),
            )
        })
        .collect()
}

fn zip(version: &Version, plan: &Plan) -> Vec<u8> {
    let document = document(plan);
    let mut out = Vec::new();
    let mut directory = Vec::new();
    let mut entries = entries(version, plan);
    entries.insert(0, (".longhaul/diff.json", &document, false, Form::Raw));
    for (name, content, executable, form) in &entries {
        let offset = out.len();
        let (method, data): (u16, &[u8]) = match form {
            Form::Raw => (0, content),
            Form::Deflated(deflated) => (8, &version.stored[&deflated.sha256]),
        };
        let mut common = Vec::new();
        common.extend([20, 0, 0x00, 0x08]);
        common.extend(method.to_le_bytes());
        common.extend([0, 0, 0x21, 0x00]);
        common.extend(crc32fast::hash(content).to_le_bytes());
        common.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        common.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        common.extend([0, 0]);

        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(data);

        directory.extend(b"PK\x01\x02\x1e\x03");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend(if *executable {
            [0, 0, 0xed, 0x81]
        } else {
            [0, 0, 0xa4, 0x81]
        });
        directory.extend(u32::try_from(offset).unwrap().to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let offset = out.len();
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend(u16::try_from(entries.len()).unwrap().to_le_bytes());
    }
    out.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    out.extend(u32::try_from(offset).unwrap().to_le_bytes());
    out.extend([0, 0]);
    out
}

fn tar(version: &Version, plan: &Plan) -> Vec<u8> {
    let document = document(plan);
    let mut out = Vec::new();
    let mut entries = entries(version, plan);
    entries.insert(0, (".longhaul/diff.json", &document, false, Form::Raw));
    for (name, content, executable, _) in &entries {
        let slashes = name.match_indices('/').map(|(at, _)| at);
        let mut splits = slashes
            .filter(|at| *at <= 155 && name.len() - at - 1 <= 100)
            .map(|at| (&name[..at], &name[at + 1..]));
        let split = if name.len() <= 100 {
            Some(("", *name))
        } else {
            splits.next()
        };
        let (prefix, short) = split.unwrap_or_else(|| {
            let value = format!(" path={name}\n");
            let len = (1..2000)
                .find(|len| value.len() + len.to_string().len() == *len)
                .unwrap();
            let record = format!("{len}{value}");
            tar_entry(
                &mut out,
                "",
                "././@PaxHeader",
                record.as_bytes(),
                false,
                b'x',
            );
            let end = (0..=100)
                .rev()
                .find(|end| name.is_char_boundary(*end))
                .unwrap();
            ("", &name[..end])
        });
        tar_entry(&mut out, prefix, short, content, *executable, b'0');
    }
    out.extend([0; 1024]);
    out
}

fn tar_entry(
    out: &mut Vec<u8>,
    prefix: &str,
    name: &str,
    content: &[u8],
    executable: bool,
    kind: u8,
) {
    let mut header = Vec::new();
    let mut field = |text: &str, len: usize| {
        header.extend(text.as_bytes());
        header.resize(header.len() + len - text.len(), 0);
    };
    field(name, 100);
    field(if executable { "0000755" } else { "0000644" }, 8);
    field("0000000", 8);
    field("0000000", 8);
    field(&format!("{:011o}", content.len()), 12);
    field("00000000000", 12);
    field("        ", 8);
    field(&char::from(kind).to_string(), 1);
    field("", 100);
    field("ustar", 6);
    field("00", 2);
    field("", 32);
    field("", 32);
    field("0000000", 8);
    field("0000000", 8);
    field(prefix, 155);
    field("", 12);
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    out.extend(header);
    out.extend(content);
    while !out.len().is_multiple_of(512) {
        out.push(0);
    }
}
