//! `.longhaul/diff.json`, the first entry of every archive: the receiver's operations on the other
//! entries.
//!
//! Canonical JSON as in RFC 8785:
//!
//! ```json
//! {"catalogue":"<SHA-256 of the target's catalogue>","format":"longhaul-diff/1",
//!  "from":{"catalogue":"<SHA-256>","version":41},"need":"AAMGAQ",
//!  "ops":[{"op":"add","path":"a/b.png"},
//!         {"entry":"a/b.png","op":"add","path":"c.png"},
//!         {"from":"old/d.png","op":"copy","path":"d.png","sha256":"…"},
//!         {"op":"remove","path":"old/d.png"}],
//!  "pack":"maps","version":42}
//! ```
//!
//! (without the line breaks). `from` is `null` if the receiver's tree is unknown; then there are no
//! copies and removals, and the target's catalogue lists the other files. Operations are in this
//! order, each kind in the order of paths: `add` from the entry of the same name, `add` from
//! another entry (`entry`) with the same content, `copy` from the old tree (`from`; also to change
//! a permission in place), `remove`. Copies read the tree as it was before. Executable added and
//! copied files have `"executable":true`. A reader must refuse unknown operations, such as future
//! patches and bundle slices.
//!
//! A million operations take tens of megabytes, so the text is not stored: only its length, its
//! CRC-32, and the offset of each 64th operation. Any part of the text is written again on demand.

use std::fmt::Write as _;
use std::ops::Range;

use crate::canonical_json::push_string;
use crate::diff::Diff;
use crate::plan::Plan;

/// Name of the entry.
pub const DIFF_DOCUMENT_PATH: &str = ".longhaul/diff.json";

/// The `format` member of the document.
pub const DIFF_FORMAT: &str = "longhaul-diff/1";

/// Document of one plan, written on demand.
#[derive(Debug)]
pub(crate) struct DiffDocument {
    head: Box<str>,
    tail: Box<str>,
    /// Offsets in the text at which each group of operations begins, and at which the last ends.
    groups: Box<[u64]>,
    operations: u64,
    crc32: u32,
}

impl DiffDocument {
    pub(crate) fn new(plan: &Plan, diff: &Diff) -> Self {
        let target = plan.target();
        let mut head = format!(
            "{{\"catalogue\":\"{}\",\"format\":\"{DIFF_FORMAT}\",\"from\":",
            target.digest()
        );
        match plan.base() {
            Some(base) => {
                let (digest, version) = (base.digest(), base.version());
                write!(head, "{{\"catalogue\":\"{digest}\",\"version\":{version}}}")
                    .expect(INFALLIBLE);
            }
            None => head.push_str("null"),
        }
        write!(head, ",\"need\":\"{}\",\"ops\":[", plan.need().name()).expect(INFALLIBLE);

        let mut tail = String::from("],\"pack\":");
        push_string(&mut tail, target.pack().as_str());
        write!(tail, ",\"version\":{}}}", target.version()).expect(INFALLIBLE);

        let added = u64::from(plan.need().len());
        let operations =
            added + (diff.duplicates.len() + diff.copies.len() + diff.removals.len()) as u64;
        let mut groups = vec![head.len() as u64];
        let mut crc32 = crc32fast::Hasher::new();
        crc32.update(head.as_bytes());
        let mut text = String::new();
        let mut document = Self {
            head: head.into(),
            tail: tail.into(),
            groups: Box::default(),
            operations,
            crc32: 0,
        };
        let mut end = document.head.len() as u64;
        for group in 0..operations.div_ceil(GROUP) {
            text.clear();
            document.push_group(plan, diff, group, &mut text);
            crc32.update(text.as_bytes());
            end += text.len() as u64;
            groups.push(end);
        }
        crc32.update(document.tail.as_bytes());
        document.groups = groups.into();
        document.crc32 = crc32.finalize();
        document
    }

    /// Returns the length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.operations_end() + self.tail.len() as u64
    }

    pub(crate) fn crc32(&self) -> u32 {
        self.crc32
    }

    pub(crate) fn memory(&self) -> usize {
        self.head.len() + self.tail.len() + size_of_val(&*self.groups)
    }

    /// Appends a range of the text. The plan and the diff must be those of the document.
    pub(crate) fn append(&self, plan: &Plan, diff: &Diff, range: Range<u64>, out: &mut Vec<u8>) {
        append_overlap(self.head.as_bytes(), 0, &range, out);
        let first = self
            .groups
            .partition_point(|begin| *begin <= range.start)
            .saturating_sub(1);
        let mut text = String::new();
        for group in first..self.groups.len() - 1 {
            let begin = self.groups[group];
            if begin >= range.end {
                break;
            }
            text.clear();
            self.push_group(plan, diff, group as u64, &mut text);
            append_overlap(text.as_bytes(), begin, &range, out);
        }
        append_overlap(self.tail.as_bytes(), self.operations_end(), &range, out);
    }

    fn operations_end(&self) -> u64 {
        *self
            .groups
            .last()
            .expect("there is always the end of the head")
    }

    fn push_group(&self, plan: &Plan, diff: &Diff, group: u64, out: &mut String) {
        for operation in group * GROUP..self.operations.min((group + 1) * GROUP) {
            if operation > 0 {
                out.push(',');
            }
            push_operation(plan, diff, operation, out);
        }
    }
}

/// Number of operations in a group.
const GROUP: u64 = 64;

const INFALLIBLE: &str = "writing to a string does not fail";

fn push_operation(plan: &Plan, diff: &Diff, operation: u64, out: &mut String) {
    let target = plan.target().tree();
    let push_executable = |out: &mut String, position| {
        if target.executable(position) {
            out.push_str("\"executable\":true,");
        }
    };

    if let Some(position) = u32::try_from(operation)
        .ok()
        .and_then(|rank| plan.need().nth(rank))
    {
        out.push('{');
        push_executable(out, position);
        out.push_str("\"op\":\"add\",\"path\":");
        push_string(out, target.path(position));
        out.push('}');
        return;
    }
    let index = usize::try_from(operation - u64::from(plan.need().len()))
        .expect("an index of the slices below");
    if let Some(duplicate) = diff.duplicates.get(index) {
        out.push_str("{\"entry\":");
        push_string(out, target.path(duplicate.source));
        out.push(',');
        push_executable(out, duplicate.position);
        out.push_str("\"op\":\"add\",\"path\":");
        push_string(out, target.path(duplicate.position));
        out.push('}');
        return;
    }
    let index = index - diff.duplicates.len();
    let base = plan
        .base()
        .expect("only a base gives copies and removals")
        .tree();
    if let Some(copy) = diff.copies.get(index) {
        out.push('{');
        push_executable(out, copy.to);
        out.push_str("\"from\":");
        push_string(out, base.path(copy.from));
        out.push_str(",\"op\":\"copy\",\"path\":");
        push_string(out, target.path(copy.to));
        write!(out, ",\"sha256\":\"{}\"}}", target.sha256(copy.to)).expect(INFALLIBLE);
        return;
    }
    let removal = diff.removals[index - diff.copies.len()];
    out.push_str("{\"op\":\"remove\",\"path\":");
    push_string(out, base.path(removal));
    out.push('}');
}

/// Appends the part of `bytes`, which begin at `begin`, that lies in `range`.
fn append_overlap(bytes: &[u8], begin: u64, range: &Range<u64>, out: &mut Vec<u8>) {
    let within = |at: u64| {
        usize::try_from(at.saturating_sub(begin))
            .unwrap_or(usize::MAX)
            .min(bytes.len())
    };
    let (start, end) = (within(range.start), within(range.end));
    if start < end {
        out.extend_from_slice(&bytes[start..end]);
    }
}
