//! Files, and archives of them.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use archive::{
    ArchiveFormat, Catalogue, Content, Deflated, EntryPath, Form, Forms, Layout, Limits, PackName,
    Plan, Segment, Sha256Digest, Tree, deflating_pays,
};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    pub(crate) executable: bool,
}

pub(crate) fn file(path: &str, content: &[u8]) -> File {
    File {
        path: path.to_owned(),
        content: content.to_vec(),
        executable: false,
    }
}

/// Returns bytes that do not compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Returns bytes that compress well, different ones for each seed.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 64);
    let mut line = seed.wrapping_mul(1_000_003);
    while bytes.len() < length {
        writeln!(bytes, "{line:08x} is a line of text, and so is the next").unwrap();
        line += 1;
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn tree_of(files: &[File]) -> Tree {
    let entries = files.iter().map(|file| {
        (
            EntryPath::parse(file.path.as_str()).unwrap(),
            file.content.len() as u64,
            Sha256Digest::of(&file.content),
            file.executable,
        )
    });
    Tree::try_from_entries(entries, Limits::default()).unwrap()
}

/// Returns an archive of the files, as the server makes it.
pub(crate) fn pack(format: ArchiveFormat, files: &[File]) -> Vec<u8> {
    let mut contents = HashMap::new();
    let mut forms = HashMap::new();
    for file in files {
        let sha256 = Sha256Digest::of(&file.content);
        let stream = match format {
            ArchiveFormat::Zip => deflate(&file.content),
            ArchiveFormat::Tar => file.content.clone(),
        };
        let form = Deflated {
            size: stream.len() as u64,
            sha256: Sha256Digest::of(&stream),
        };
        if deflating_pays(file.content.len() as u64, form.size) {
            forms.insert(sha256, Form::Deflated(form));
            contents.insert(form.sha256, stream);
        }
        contents.insert(sha256, file.content.clone());
    }
    let tree = tree_of(files);
    let form_of = |sha256: &Sha256Digest| forms.get(sha256).copied().unwrap_or(Form::Raw);
    let forms = Arc::new(Forms::new(&tree, form_of).unwrap());
    let content_of = |sha256: &Sha256Digest| {
        let content = contents.get(sha256)?;
        Some(Content {
            size: content.len() as u64,
            crc32: crc32fast::hash(content),
        })
    };
    let name = PackName::parse("pack").unwrap();
    let catalogue = Arc::new(Catalogue::publish(name, 1, tree, content_of).unwrap());
    let layout = Layout::new(format, Plan::whole(catalogue, forms).unwrap());
    let mut archive = Vec::new();
    for segment in layout.slice(0..layout.len()) {
        match segment {
            Segment::Literal(bytes) => archive.extend_from_slice(&bytes),
            Segment::Blob(slice) => {
                let sha256 = match slice.form {
                    Form::Raw => slice.sha256,
                    Form::Deflated(form) => form.sha256,
                };
                let (start, end) = (slice.range.start, slice.range.end);
                let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                archive.extend_from_slice(&contents[&sha256][range]);
            }
        }
    }
    archive
}

/// Returns a zip as tools write it that cannot seek: the sizes follow the contents.
pub(crate) fn streamed_zip(files: &[File]) -> Vec<u8> {
    fn put(out: &mut Vec<u8>, fields: &[(u64, usize)]) {
        for (value, width) in fields {
            out.extend_from_slice(&value.to_le_bytes()[..*width]);
        }
    }
    const SIZES_BEHIND_AND_UTF8: u64 = 0x0808;
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for file in files {
        let offset = out.len() as u64;
        let stream = deflate(&file.content);
        let crc32 = u64::from(crc32fast::hash(&file.content));
        let (packed, size) = (stream.len() as u64, file.content.len() as u64);
        let name = file.path.as_bytes();
        let mode: u64 = if file.executable {
            0o100_755
        } else {
            0o100_644
        };
        let head = [(20, 2), (SIZES_BEHIND_AND_UTF8, 2), (8, 2), (0, 4)];
        put(&mut out, &[(0x0403_4b50, 4)]);
        put(&mut out, &head);
        put(
            &mut out,
            &[(0, 4), (0, 4), (0, 4), (name.len() as u64, 2), (0, 2)],
        );
        out.extend_from_slice(name);
        out.extend_from_slice(&stream);
        put(
            &mut out,
            &[(0x0807_4b50, 4), (crc32, 4), (packed, 4), (size, 4)],
        );
        put(&mut directory, &[(0x0201_4b50, 4), (0x0314, 2)]);
        put(&mut directory, &head);
        put(
            &mut directory,
            &[(crc32, 4), (packed, 4), (size, 4), (name.len() as u64, 2)],
        );
        put(
            &mut directory,
            &[(0, 2), (0, 2), (0, 2), (0, 2), (mode << 16, 4), (offset, 4)],
        );
        directory.extend_from_slice(name);
    }
    let (count, start) = (files.len() as u64, out.len() as u64);
    let length = directory.len() as u64;
    out.extend(directory);
    put(
        &mut out,
        &[(0x0605_4b50, 4), (0, 2), (0, 2), (count, 2), (count, 2)],
    );
    put(&mut out, &[(length, 4), (start, 4), (0, 2)]);
    out
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
