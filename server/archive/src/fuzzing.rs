//! Bodies of the fuzz targets: properties of the parsers for every input, beyond not panicking.
//!
//! `fuzz/fuzz_targets` calls each with libFuzzer's inputs. The test below calls each with
//! `fuzz/corpus` and mutations of it, so a failing input is kept by adding it to the corpus.

use std::collections::HashSet;
use std::path::{Component, Path};

use bytes::Bytes;

use crate::catalogue::Catalogue;
use crate::diff::{Diff, lacking, lacking_digests};
use crate::draft::Draft;
use crate::entry_path::{EntryPath, MAX_PATH_BYTES};
use crate::forms::{Forms, FormsError};
use crate::holdings::Holdings;
use crate::need::{Need, NeedName};
use crate::sha256_digest::Sha256Digest;
use crate::tree::{Limits, Tree};
use crate::unpack::{UnpackError, UnpackEvent, UnpackLimits, Unpacker};

/// A fuzz target: its name, which its file and corpus share, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("catalogue", catalogue),
    ("draft", draft),
    ("entry_path", entry_path),
    ("forms", forms),
    ("holdings", holdings),
    ("need", need),
    ("unpack", unpack),
];

/// Checks a published catalogue, with the digest of the input's bytes.
pub fn catalogue(data: &[u8]) {
    let digest = Sha256Digest::of(data);
    let catalogue = Catalogue::decode(data, digest).ok();
    assert_eq!(Catalogue::decode_from(data, digest).ok(), catalogue);
    let Some(catalogue) = catalogue else { return };
    assert_eq!(
        (catalogue.digest(), catalogue.encoded_len()),
        (digest, data.len() as u64)
    );
    // A tree that a client could publish is read back from its own encoding.
    if let Ok(draft) = Draft::parse_json(data, LIMITS) {
        let encoded = catalogue.encode().collect::<Vec<_>>().concat();
        let again =
            Catalogue::decode(&encoded, Sha256Digest::of(&encoded)).expect("its own encoding");
        assert_eq!(again.encode().collect::<Vec<_>>().concat(), encoded);
        assert_eq!(draft.tree.len(), again.tree().len());
    }
}

/// Checks a tree to publish.
pub fn draft(data: &[u8]) {
    let draft = Draft::parse_json(data, LIMITS).ok();
    assert_eq!(Draft::read_json(data, LIMITS).ok(), draft);
    if let Some(draft) = draft {
        check_tree(&draft.tree);
    }
}

/// Checks a path.
pub fn entry_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(path) = EntryPath::normalize(&*text) else {
        assert!(EntryPath::parse(&*text).is_err());
        return;
    };
    assert!(path.as_str().len() <= MAX_PATH_BYTES);
    assert_eq!(EntryPath::parse(path.as_str()), Ok(path.clone()));
    assert_eq!(EntryPath::parse(&*text).is_ok(), path.as_str() == text);
    let root = Path::new("/srv/root");
    let joined = root.join(path.as_str());
    let below = joined.strip_prefix(root).expect("joined below the root");
    assert!(
        below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    );
    assert_eq!(
        path.as_str()
            .split('/')
            .fold(root.to_path_buf(), |at, name| at.join(name)),
        joined
    );
    assert_eq!(
        path.folded().matches('/').count(),
        path.as_str().matches('/').count()
    );
}

/// Checks a table of forms, for as many equal files as its length permits.
pub fn forms(data: &[u8]) {
    let paths: Vec<String> = (0..4).map(|number| format!("file {number}")).collect();
    let sizes = [0, 100, u64::from(u32::MAX), 1 << 52];
    let entries = paths.iter().zip(sizes).map(|(path, size)| {
        let path = EntryPath::parse(path.as_str()).expect("a plain name");
        (path, size, Sha256Digest::of(&size.to_be_bytes()), false)
    });
    let tree = Tree::try_from_entries(entries, Limits::default()).expect("four plain files");
    match Forms::decode(data, &tree) {
        Ok(forms) => {
            assert_eq!(forms.encode(), data);
            assert_eq!(forms.digest(), Sha256Digest::of(data));
        }
        Err(FormsError::Malformed | FormsError::SavesTooLittle { .. }) => {}
    }
}

/// Checks a client's holdings against a fixed tree.
pub fn holdings(data: &[u8]) {
    let holdings = Holdings::parse_json(data, LIMITS);
    assert_eq!(
        Holdings::read_json(data, LIMITS).ok(),
        Holdings::parse_json(data, LIMITS).ok()
    );
    let Ok(holdings) = holdings else { return };
    let entries = ["a", "b", "c/d"].into_iter().map(|path| {
        (
            EntryPath::parse(path).expect("a plain name"),
            0,
            Sha256Digest::of(b""),
            path == "b",
        )
    });
    let target = Tree::try_from_entries(entries, LIMITS).expect("three plain files");
    match holdings {
        Holdings::Tree(held) => {
            check_tree(&held);
            let need = lacking(&target, &held);
            let digests = held.entries().map(|entry| entry.sha256).collect();
            assert_eq!(need, lacking_digests(&target, &digests));
            let diff = Diff::new(&target, Some(&held), &need);
            assert!(
                diff.copies
                    .iter()
                    .all(|copy| target.sha256(copy.to) == held.sha256(copy.from))
            );
            assert!(
                diff.removals
                    .iter()
                    .all(|removal| target.position(held.path(*removal)).is_none())
            );
        }
        Holdings::Digests(held) => {
            let need = lacking_digests(&target, &held);
            assert_eq!(need.is_empty(), held.contains(&Sha256Digest::of(b"")));
        }
        Holdings::Version { version: _, except } => {
            assert!(except.len() <= LIMITS.entries as usize)
        }
    }
}

/// Checks a need. Input: the number of entries on a line, then the need as in a URL.
pub fn need(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (entries, name) = text.split_once('\n').unwrap_or(("1000", &text));
    let entries = entries.parse().unwrap_or(1000);
    if let Ok(name @ NeedName::Registered(_)) = name.parse() {
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert!(Need::parse(&name.to_string(), entries).is_err());
    }
    let Ok(need) = Need::parse(name, entries) else {
        return;
    };
    assert_eq!(need.name(), NeedName::Inline(name.into()));
    assert!(
        need.runs()
            .all(|run| run.start < run.end && run.end <= entries)
    );
    let runs: Vec<_> = need.runs().collect();
    assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
    assert_eq!(
        runs.iter().map(|run| run.end - run.start).sum::<u32>(),
        need.len()
    );
    for rank in [0, need.len() / 2, need.len().saturating_sub(1)] {
        assert_eq!(need.nth(rank).is_some(), rank < need.len());
        assert!(
            need.nth(rank)
                .is_none_or(|position| need.contains(position))
        );
    }
}

/// Checks an archive of any kind, fed at once and in pieces.
pub fn unpack(data: &[u8]) {
    let whole = unpack_in(data, usize::MAX);
    // Fed in pieces, damage to a compressed stream shows earlier or later, but intact archives must
    // give the same files.
    assert_eq!(unpack_in(data, 13).ok(), whole.ok());
}

/// Unpacks an archive in pieces, and returns path, CRC-32 and permission of each file.
fn unpack_in(data: &[u8], piece: usize) -> Result<Vec<(String, u32, bool)>, UnpackError> {
    let limits = UnpackLimits {
        entries: 50,
        entry_size: 1 << 20,
        total_size: 2 << 20,
        path_bytes: 1 << 16,
        ratio: 200,
    };
    let mut unpacker = Unpacker::new(limits);
    let mut pieces = data.chunks(piece);
    let mut files = Vec::new();
    let mut paths = HashSet::new();
    let (mut size, mut total_size) = (0, 0);
    let mut crc32 = crc32fast::Hasher::new();
    loop {
        match unpacker.next_event()? {
            Some(UnpackEvent::Entry { path, size: told }) => {
                assert_eq!(EntryPath::parse(path.as_str()), Ok(path.clone()));
                assert!(paths.insert(path.folded().into_owned()));
                assert!(told.is_none_or(|told| told <= limits.entry_size));
                files.push((path.as_str().to_owned(), 0, false));
            }
            Some(UnpackEvent::Data(bytes)) => {
                assert!(!bytes.is_empty());
                size += bytes.len() as u64;
                crc32.update(&bytes);
            }
            Some(UnpackEvent::EndOfEntry {
                size: told_size,
                crc32: told_crc32,
            }) => {
                let file = files.last_mut().expect("an entry has begun");
                file.1 = std::mem::take(&mut crc32).finalize();
                assert_eq!((told_size, told_crc32), (size, file.1));
                total_size += std::mem::take(&mut size);
                assert!(total_size <= limits.total_size);
            }
            Some(UnpackEvent::Copy { path, of }) => {
                assert_eq!(EntryPath::parse(path.as_str()), Ok(path.clone()));
                assert!(paths.insert(path.folded().into_owned()));
                let (_, crc32, _) = files[of as usize];
                files.push((path.as_str().to_owned(), crc32, false));
            }
            Some(UnpackEvent::Executable { number }) => files[number as usize].2 = true,
            Some(UnpackEvent::Pause) => {}
            Some(UnpackEvent::End) => return Ok(files),
            None => match pieces.next() {
                Some(piece) => unpacker.feed(Bytes::copy_from_slice(piece)),
                None => unpacker.finish(),
            },
        }
    }
}

fn check_tree(tree: &Tree) {
    assert!(tree.len() <= LIMITS.entries && tree.total_size() <= LIMITS.total_size);
    let mut keys = HashSet::new();
    for (entry, position) in tree.entries().zip(0..) {
        let path = EntryPath::parse(entry.path).expect("a tree holds checked paths");
        assert!(keys.insert(path.folded().into_owned()));
        assert!(position == 0 || tree.path(position - 1) < entry.path);
        assert_eq!(tree.position(entry.path), Some(position));
        assert!(tree.positions_with(&entry.sha256).contains(&position));
    }
}

const LIMITS: Limits = Limits {
    entries: 20,
    total_size: 1 << 40,
    path_bytes: 1 << 12,
};

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MUTATIONS: usize = 3000;

    #[test]
    fn every_target_holds_for_its_corpus_and_mutations_of_it() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
            for input in &corpus {
                target(input);
            }
            for _ in 0..MUTATIONS {
                target(&chance.mutation(&corpus));
            }
        }
    }

    #[test]
    fn every_target_has_a_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let mut files: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|file| {
                file.unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        files.sort();
        assert_eq!(files, TARGETS.map(|(name, _)| name));
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has a corpus");
        files
            .into_iter()
            .map(|file| fs::read(file).unwrap())
            .collect()
    }

    /// A stream of numbers, the same in every run (xorshift64).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % bound as u64).unwrap()
        }

        /// Returns an input of the corpus with one to four changes, perhaps spliced with another.
        fn mutation(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
            const TELLING: &[u8] = b"\0\x01\x08 \"-./0179:=AP[\\]_{}\x7f\x80\xcc\xff";
            let mut input = corpus[self.below(corpus.len())].clone();
            for _ in 0..=self.below(4) {
                let at = self.below(input.len() + 1);
                match self.below(6) {
                    0 => input.truncate(at),
                    1 => input.insert(at, TELLING[self.below(TELLING.len())]),
                    2 => {
                        let other = &corpus[self.below(corpus.len())];
                        let from = self.below(other.len() + 1);
                        input.splice(at.., other[from..].iter().copied());
                    }
                    _ if at == input.len() => {}
                    3 => {
                        input.remove(at);
                    }
                    4 => input[at] ^= 1 << self.below(8),
                    _ => input[at] = TELLING[self.below(TELLING.len())],
                }
            }
            input
        }
    }
}
