//! Packs over HTTP: trees of files, the archives that carry them, and the requests of a client that
//! publishes and fetches them.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _, Write as _};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;

use crate::{Request, TestServer};

/// A tree of files: contents by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, Bytes>);

impl Files {
    /// Builds a tree of these files.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        files
            .into_iter()
            .map(|(path, bytes)| (path.to_owned(), Bytes::copy_from_slice(bytes)))
            .collect()
    }

    /// Returns the document for drafts and comparisons: path, size and SHA-256 of each file.
    pub fn document(&self) -> Value {
        let files: Vec<Value> = self
            .0
            .iter()
            .map(
                |(path, bytes)| json!({"path": path, "size": bytes.len(), "sha256": sha256(bytes)}),
            )
            .collect();
        json!({ "files": files })
    }

    /// Returns the files whose digests are among `digests`.
    pub fn with_digests(&self, digests: &[String]) -> Self {
        let wanted = self
            .0
            .iter()
            .filter(|(_, bytes)| digests.contains(&sha256(bytes)));
        wanted
            .map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect()
    }

    /// Encodes a zip with every entry deflated.
    pub fn zip(&self) -> Bytes {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (path, bytes) in &self.0 {
            zip.start_file(path, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner().into()
    }

    /// Encodes a tar.
    pub fn tar(&self) -> Bytes {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, &**bytes).unwrap();
        }
        tar.into_inner().unwrap().into()
    }

    /// Reads the files of a zip from Longhaul, without its document.
    pub fn from_zip(bytes: &[u8]) -> Self {
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        (0..zip.len())
            .map(|number| {
                let mut entry = zip.by_index(number).unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.name().unwrap().into_owned(), Bytes::from(content))
            })
            .filter(|(path, _)| path != DOCUMENT)
            .collect()
    }

    /// Reads the files of a tar from Longhaul, without its document.
    pub fn from_tar(bytes: &[u8]) -> Self {
        let mut tar = tar::Archive::new(bytes);
        tar.entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().to_str().unwrap().to_owned();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (path, Bytes::from(content))
            })
            .filter(|(path, _)| path != DOCUMENT)
            .collect()
    }
}

impl FromIterator<(String, Bytes)> for Files {
    fn from_iter<I: IntoIterator<Item = (String, Bytes)>>(files: I) -> Self {
        Self(files.into_iter().collect())
    }
}

/// Entry of an archive that describes how to apply the others.
pub const DOCUMENT: &str = ".longhaul/diff.json";

/// Reads the document of an archive.
pub fn document_of(zip: &[u8]) -> Value {
    let mut zip = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let mut text = String::new();
    let mut entry = zip.by_index(0).unwrap();
    assert_eq!(entry.name().unwrap(), DOCUMENT);
    entry.read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Returns the SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TestServer {
    /// Drafts a tree. Returns the document of the draft.
    pub async fn draft(&self, pack: &str, document: &Value) -> Value {
        let request = Request::post(format!("/packs/{pack}/drafts")).body(document.to_string());
        self.request(request).await.expect(201).json()
    }

    /// Publishes a tree as a client does: drafts it, sends the missing contents as one zip,
    /// publishes. Returns the document of the version.
    pub async fn publish(&self, pack: &str, files: &Files) -> Value {
        let draft = self.draft(pack, &files.document()).await;
        let missing: Vec<String> =
            serde_json::from_value(draft["missing"]["sha256"].clone()).unwrap();
        if !missing.is_empty() {
            let content =
                Request::post(text(&draft["content_url"])).body(files.with_digests(&missing).zip());
            self.request(content).await.expect(200);
        }
        let publish = Request::post(text(&draft["publish_url"]));
        self.request(publish).await.expect(201).json()
    }

    /// Downloads a resource that must exist.
    pub async fn bytes(&self, target: &str) -> Bytes {
        self.request(Request::get(target)).await.expect(200).body
    }
}

/// Returns a string in a document, which must be one.
#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}"))
}
