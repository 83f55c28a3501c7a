//! Content of the bucket, and the effects of operations.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::{Bound, Range};

use bytes::Bytes;

/// Status and code of an error answer.
pub(super) type Refusal = (u16, &'static str);

const NO_KEY: Refusal = (404, "NoSuchKey");
const NO_UPLOAD: Refusal = (404, "NoSuchUpload");
const CHANGED: Refusal = (412, "PreconditionFailed");
const BAD_PART: Refusal = (400, "InvalidPart");

/// The bucket.
#[derive(Debug, Default)]
pub(super) struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<(String, String), Upload>,
    /// Counts changes, and serves as the time.
    changes: u64,
    pub(super) violations: Vec<String>,
    /// Names of objects of which a part was sent with nothing to verify it by.
    pub(super) trusted: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) etag: String,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) modified: u64,
}

/// Multipart upload, by its name and id, that nobody finds.
pub(super) type Hidden = ((String, String), Upload);

#[derive(Debug)]
pub(super) struct Upload {
    metadata: Vec<(String, String)>,
    /// Set if it was begun with a checksum algorithm.
    algorithm: bool,
    parts: BTreeMap<u32, (Bytes, String)>,
    initiated: u64,
}

/// Condition on which an object is put.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
}

impl State {
    pub(super) fn objects(&self) -> BTreeSet<String> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn uploads(&self) -> usize {
        self.uploads.len()
    }

    pub(super) fn put(
        &mut self,
        name: &str,
        bytes: Bytes,
        metadata: Vec<(String, String)>,
        condition: &Condition,
    ) -> Result<String, Refusal> {
        self.check(name, condition)?;
        let etag = etag(&bytes);
        self.place(name, bytes, etag.clone(), metadata);
        Ok(etag)
    }

    pub(super) fn find(&self, name: &str) -> Result<&Object, Refusal> {
        self.objects.get(name).ok_or(NO_KEY)
    }

    pub(super) fn get(&self, name: &str, if_match: Option<&str>) -> Result<&Object, Refusal> {
        let object = self.find(name)?;
        match if_match {
            Some(etag) if etag != object.etag => Err(CHANGED),
            _ => Ok(object),
        }
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.objects.remove(name);
    }

    /// Lists the objects behind a name, in order.
    pub(super) fn list(&self, prefix: &str, after: Option<&str>) -> Vec<(String, &Object)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, object)| (name.clone(), object))
            .collect()
    }

    pub(super) fn create_upload(
        &mut self,
        name: &str,
        metadata: Vec<(String, String)>,
        algorithm: bool,
    ) -> String {
        self.changes += 1;
        let id = format!("upload-{:08}", self.changes);
        let upload = Upload {
            metadata,
            algorithm,
            parts: BTreeMap::new(),
            initiated: self.changes,
        };
        self.uploads.insert((name.to_owned(), id.clone()), upload);
        id
    }

    /// Checks that a part has a checksum if it must, and none if it must not.
    pub(super) fn check_checksum(
        &self,
        name: &str,
        id: &str,
        has_checksum: bool,
    ) -> Result<(), Refusal> {
        let upload = self.uploads.get(&(name.to_owned(), id.to_owned()));
        match upload.ok_or(NO_UPLOAD)?.algorithm == has_checksum {
            true => Ok(()),
            false => Err((400, "InvalidRequest")),
        }
    }

    pub(super) fn upload_part(
        &mut self,
        name: &str,
        id: &str,
        number: u32,
        bytes: Bytes,
    ) -> Result<String, Refusal> {
        let upload = self.uploads.get_mut(&(name.to_owned(), id.to_owned()));
        let upload = upload.ok_or(NO_UPLOAD)?;
        let etag = etag(&bytes);
        let before = upload.parts.insert(number, (bytes, etag.clone()));
        if before.is_some_and(|(_, before)| before != etag) {
            let violation = format!("part {number} of {id} was sent with two contents");
            self.violations.push(violation);
        }
        Ok(etag)
    }

    pub(super) fn copy_part(
        &mut self,
        name: &str,
        id: &str,
        number: u32,
        source: (&str, Range<usize>, Option<&str>),
    ) -> Result<String, Refusal> {
        let (from, range, if_match) = source;
        self.check_checksum(name, id, false)?;
        let object = self.get(from, if_match)?;
        if range.end > object.bytes.len() {
            return Err((416, "InvalidRange"));
        }
        let bytes = object.bytes.slice(range);
        self.upload_part(name, id, number, bytes)
    }

    /// Completes an upload. `parts` are numbers with entity tags, and `true` for those with a
    /// checksum.
    pub(super) fn complete(
        &mut self,
        name: &str,
        id: &str,
        parts: &[(u32, String, bool)],
        condition: &Condition,
    ) -> Result<String, Refusal> {
        let place = (name.to_owned(), id.to_owned());
        let upload = self.uploads.get(&place).ok_or(NO_UPLOAD)?;
        if parts.is_empty() {
            return Err((400, "MalformedXML"));
        }
        if parts
            .iter()
            .any(|(.., checksum)| *checksum != upload.algorithm)
        {
            return Err((400, "InvalidRequest"));
        }
        if (1..)
            .zip(parts)
            .any(|(place, (number, ..))| place != *number)
        {
            return Err((400, "InvalidPartOrder"));
        }
        let mut whole = Vec::new();
        let first = upload.parts.get(&1).map_or(0, |(bytes, _)| bytes.len());
        let last = parts.last().map(|(number, ..)| number);
        for (number, etag, _) in parts {
            let (bytes, stored) = upload.parts.get(number).ok_or(BAD_PART)?;
            let is_last = Some(number) == last;
            // The last part may be shorter, none may be longer: the rule of R2.
            if stored != etag || bytes.len() > first || (bytes.len() < first && !is_last) {
                return Err(BAD_PART);
            }
            whole.extend_from_slice(bytes);
        }
        let metadata = upload.metadata.clone();
        self.check(name, condition)?;
        let etag = format!("{}-{}\"", etag(&whole).trim_end_matches('"'), parts.len());
        self.uploads.remove(&place);
        self.place(name, whole.into(), etag.clone(), metadata);
        Ok(etag)
    }

    /// Removes a multipart upload, as versitygw does while it completes one.
    pub(super) fn hide_upload(&mut self, name: &str, id: &str) -> Option<Hidden> {
        self.uploads.remove_entry(&(name.to_owned(), id.to_owned()))
    }

    pub(super) fn show_upload(&mut self, hidden: Option<Hidden>) {
        self.uploads.extend(hidden);
    }

    pub(super) fn abort(&mut self, name: &str, id: &str) -> Result<(), Refusal> {
        let aborted = self.uploads.remove(&(name.to_owned(), id.to_owned()));
        aborted.map(drop).ok_or(NO_UPLOAD)
    }

    pub(super) fn abort_all(&mut self) {
        self.uploads.clear();
    }

    /// Returns number, size and entity tag of each part.
    pub(super) fn parts(&self, name: &str, id: &str) -> Result<Vec<(u32, usize, String)>, Refusal> {
        let upload = self.uploads.get(&(name.to_owned(), id.to_owned()));
        let parts = upload.ok_or(NO_UPLOAD)?.parts.iter();
        Ok(parts
            .map(|(number, (bytes, etag))| (*number, bytes.len(), etag.clone()))
            .collect())
    }

    /// Returns name, id and time of each multipart upload.
    pub(super) fn list_uploads(&self, prefix: &str) -> Vec<(String, String, u64)> {
        self.uploads
            .iter()
            .filter(|((name, _), _)| name.starts_with(prefix))
            .map(|((name, id), upload)| (name.clone(), id.clone(), upload.initiated))
            .collect()
    }

    fn check(&self, name: &str, condition: &Condition) -> Result<(), Refusal> {
        let present = self.objects.get(name);
        if condition.if_none_match.is_some() && present.is_some() {
            return Err(CHANGED);
        }
        match (&condition.if_match, present) {
            (Some(_), None) => Err(NO_KEY),
            (Some(etag), Some(object)) if *etag != object.etag => Err(CHANGED),
            _ => Ok(()),
        }
    }

    fn place(&mut self, name: &str, bytes: Bytes, etag: String, metadata: Vec<(String, String)>) {
        self.changes += 1;
        let object = Object {
            bytes,
            etag,
            metadata,
            modified: self.changes,
        };
        self.objects.insert(name.to_owned(), object);
    }
}

/// Tells contents apart; no test makes two with the same tag on purpose.
fn etag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}{:016x}\"", hasher.finish(), bytes.len())
}
