//! Packs with their contents at hand.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use archive::{
    ArchiveFormat, BlobSlice, Catalogue, Content, Deflated, EntryPath, Form, Forms, Layout, Limits,
    PackName, Plan, Segment, Sha256Digest, Tree, deflating_pays,
};
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// A file: path, content, executable.
pub(crate) type File = (String, Vec<u8>, bool);

/// A published version and all that a server would have stored of it.
pub(crate) struct Version {
    pub(crate) files: Vec<File>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) forms: Arc<Forms>,
    /// Contents and deflate streams by their digests.
    pub(crate) stored: HashMap<Sha256Digest, Vec<u8>>,
}

impl Version {
    /// Publishes files; the order does not matter.
    pub(crate) fn publish(version: u64, mut files: Vec<File>) -> Self {
        files.sort();
        let mut stored = HashMap::new();
        let mut forms = HashMap::new();
        for (_, content, _) in &files {
            let sha256 = Sha256Digest::of(content);
            // Nothing so short gets shorter, and starting an encoder takes its time.
            let stream = if content.len() < 16 {
                content.clone()
            } else {
                deflate(content)
            };
            if deflating_pays(content.len() as u64, stream.len() as u64) {
                let form = Deflated {
                    size: stream.len() as u64,
                    sha256: Sha256Digest::of(&stream),
                };
                forms.insert(sha256, Form::Deflated(form));
                stored.insert(form.sha256, stream);
            }
            stored.insert(sha256, content.clone());
        }
        let entries = files.iter().map(|(path, content, executable)| {
            let path = EntryPath::parse(path.as_str()).unwrap();
            (
                path,
                content.len() as u64,
                Sha256Digest::of(content),
                *executable,
            )
        });
        let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
        let forms = Forms::new(&tree, |sha256| {
            forms.get(sha256).copied().unwrap_or(Form::Raw)
        })
        .unwrap();
        let catalogue = Catalogue::publish(
            PackName::parse("a \"pack\"").unwrap(),
            version,
            tree,
            |sha256| {
                let content = &stored[sha256];
                Some(Content {
                    size: content.len() as u64,
                    crc32: crc32fast::hash(content),
                })
            },
        )
        .unwrap();
        Self {
            files,
            catalogue: Arc::new(catalogue),
            forms: Arc::new(forms),
            stored,
        }
    }

    pub(crate) fn whole(&self) -> Plan {
        Plan::whole(Arc::clone(&self.catalogue), Arc::clone(&self.forms)).unwrap()
    }

    pub(crate) fn since(&self, base: &Self) -> Plan {
        Plan::since(
            Arc::clone(&base.catalogue),
            Arc::clone(&self.catalogue),
            Arc::clone(&self.forms),
        )
        .unwrap()
    }

    /// The bytes of a range, read as a server would.
    pub(crate) fn read(&self, layout: &Layout, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in layout.slice(range) {
            match segment {
                Segment::Literal(literal) => {
                    assert!(!literal.is_empty());
                    bytes.extend_from_slice(&literal);
                }
                Segment::Blob(BlobSlice {
                    sha256,
                    form,
                    range,
                    ..
                }) => {
                    assert!(!range.is_empty());
                    let blob = match form {
                        Form::Raw => &self.stored[&sha256],
                        Form::Deflated(deflated) => &self.stored[&deflated.sha256],
                    };
                    bytes.extend_from_slice(
                        &blob[usize::try_from(range.start).unwrap()
                            ..usize::try_from(range.end).unwrap()],
                    );
                }
            }
        }
        bytes
    }

    pub(crate) fn archive(&self, format: ArchiveFormat, plan: Plan) -> Vec<u8> {
        let layout = Layout::new(format, plan);
        let bytes = self.read(&layout, 0..layout.len());
        assert_eq!(bytes.len() as u64, layout.len());
        bytes
    }
}

pub(crate) fn file(path: &str, content: &[u8]) -> File {
    (path.to_owned(), content.to_vec(), false)
}

pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A version with a bit of everything that archives must bear.
pub(crate) fn varied() -> Version {
    let long_name = "n".repeat(255);
    let deep = format!("{}/{}", ["directory"; 60].join("/"), "leaf");
    let mut files = vec![
        file("empty", b""),
        file("Größe/日本語 \"x\".txt", "größer".repeat(500).as_bytes()),
        file("block", &noise(1, 512)),
        file("block and one", &noise(2, 513)),
        file("copy of block", &noise(1, 512)),
        file("text", "all work and no play ".repeat(9000).as_bytes()),
        file("noise", &noise(3, 150_000)),
        file(&long_name, b"255"),
        file(&format!("d/{long_name}"), b"255 below"),
        file(
            &format!("{}/{}", "p".repeat(155), "q".repeat(100)),
            b"just ustar",
        ),
        file(&"ü".repeat(60), b"cut in a character"),
        file(&deep, b"deep"),
        ("run.sh".to_owned(), b"#!/bin/sh\n".to_vec(), true),
    ];
    files.extend(
        (0..300).map(|number| file(&format!("many/{number:03}"), format!("{number}").as_bytes())),
    );
    Version::publish(8, files)
}

/// Returns an earlier version of [`varied`].
pub(crate) fn varied_before() -> Version {
    let mut files = varied().files;
    files.retain(|(path, _, _)| path != "noise" && path != "many/007");
    for (path, content, executable) in &mut files {
        match path.as_str() {
            "text" => content.truncate(1000),
            "empty" => *path = "emptiness".to_owned(),
            "run.sh" => *executable = false,
            _ => {}
        }
    }
    files.push(file("gone", b"gone"));
    Version::publish(7, files)
}
