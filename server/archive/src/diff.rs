//! Differences between trees: the contents that a holder of one lacks of another, and the
//! operations that lead from one to the other.
//!
//! Two questions are separate, so that every archive is a pure function of its catalogues and its
//! need:
//!
//! 1. *What must be sent?* [`lacking`] and its variants: for each missing content, the first file
//!    in the order of the target. Contents count, not paths: a content held under any name is never
//!    sent.
//! 2. *What must the receiver do?* [`Diff::new`] from the target, the need and, if the receiver
//!    holds a known tree, that base: files whose content arrives with another entry, files to copy
//!    from held contents (moves, renames, changed permissions), files to remove.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::iter;

use crate::entry_path::EntryPath;
use crate::need::Need;
use crate::sha256_digest::Sha256Digest;
use crate::tree::Tree;

/// Operations that turn a base into a target, given the needed entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Duplicates, in the order of positions like all lists here.
    pub duplicates: Box<[Duplicate]>,
    pub copies: Box<[ContentCopy]>,
    /// Positions in the base of files that are not in the target.
    pub removals: Box<[u32]>,
    /// Number of files that are equal in base and target; 0 without a base.
    pub unchanged: u32,
}

/// A file whose content arrives with another needed entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Position of the file in the target.
    pub position: u32,
    /// Position of the needed entry with the same content.
    pub source: u32,
}

/// A file whose content the base has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentCopy {
    /// Position of the file in the target.
    pub to: u32,
    /// Position in the base of a file with the same content.
    pub from: u32,
    /// True if the target lacks `from` and no other copy moves it.
    pub is_move: bool,
}

/// An exception that names no file of either version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("neither version has a file `{path}`")]
pub struct UnknownException {
    pub path: EntryPath<'static>,
}

/// Returns the entries of the target that the holder of a tree lacks.
pub fn lacking(target: &Tree, held: &Tree) -> Need {
    need_of(
        target,
        unmatched(target, held).filter(|sha256| held.positions_with(sha256).is_empty()),
    )
}

/// Returns the entries of the target that the holder of a tree lacks, if these files are lost,
/// damaged, or missing for another reason.
///
/// An exception in the target is always sent: a client that requests a path finds it in the
/// archive. The content of an exception in the held tree counts as lost, even if another file of
/// the tree has the same content: only then does the need alone determine the operations.
pub fn lacking_except<'a>(
    target: &Tree,
    held: &Tree,
    except: impl IntoIterator<Item = &'a EntryPath<'a>>,
) -> Result<Need, UnknownException> {
    let mut lost = HashSet::new();
    let mut asked = Vec::new();
    let mut coming = HashSet::new();
    for path in except {
        let (to, from) = (target.position(path.as_str()), held.position(path.as_str()));
        if to.is_none() && from.is_none() {
            return Err(UnknownException {
                path: path.clone().into_owned(),
            });
        }
        lost.extend(from.map(|from| held.sha256(from)));
        coming.extend(to.map(|to| target.sha256(to)));
        asked.extend(to);
    }
    let unheld = unmatched(target, held).filter(|sha256| held.positions_with(sha256).is_empty());
    let lacking = unheld.chain(lost.iter().copied());
    let firsts = firsts(target, lacking.filter(|sha256| !coming.contains(sha256)));
    let positions = asked.iter().copied().chain(firsts);
    Ok(Need::from_positions(positions, target.len()).expect("positions of this target"))
}

/// Returns the entries of the target that the holder of these contents lacks.
pub fn lacking_digests(target: &Tree, held: &DigestSet) -> Need {
    need_of(
        target,
        target
            .entries()
            .map(|entry| entry.sha256)
            .filter(|sha256| !held.contains(sha256)),
    )
}

impl Diff {
    /// Returns the operations of a receiver of the needed entries that holds the base, or an
    /// unknown tree without one.
    ///
    /// # Panics
    /// Panics if the need is for another number of entries than the target's.
    pub fn new(target: &Tree, base: Option<&Tree>, need: &Need) -> Self {
        assert_eq!(need.entries(), target.len(), "a need of another catalogue");
        let duplicates = duplicates(target, need);
        let Some(base) = base else {
            return Self {
                duplicates,
                ..Self::default()
            };
        };

        let mut sent = Merged {
            needed: need.positions().peekable(),
            duplicates: duplicates
                .iter()
                .map(|duplicate| duplicate.position)
                .peekable(),
        };
        let mut copies = Vec::new();
        let mut elsewhere = Vec::new();
        let mut removals = Vec::new();
        let mut unchanged = 0;
        for pair in join(target, base) {
            match pair {
                Pair::Base(from) => removals.push(from),
                Pair::Target(to) if sent.contains(to) => {}
                Pair::Target(to) => elsewhere.push(to),
                Pair::Both(to, _) if sent.contains(to) => {}
                Pair::Both(to, from) if target.sha256(to) != base.sha256(from) => {
                    elsewhere.push(to)
                }
                Pair::Both(to, from) if target.executable(to) != base.executable(from) => {
                    copies.push(ContentCopy {
                        to,
                        from,
                        is_move: false,
                    });
                }
                Pair::Both(..) => unchanged += 1,
            }
        }
        copies.extend(find_sources(target, base, &elsewhere, &removals));
        copies.sort_unstable_by_key(|copy| copy.to);
        Self {
            duplicates,
            copies: copies.into(),
            removals: removals.into(),
            unchanged,
        }
    }

    /// Returns true if the receiver only stores the sent entries.
    pub fn is_empty(&self) -> bool {
        self.duplicates.is_empty() && self.copies.is_empty() && self.removals.is_empty()
    }

    /// Returns the approximate memory of the diff, in bytes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.duplicates) + size_of_val(&*self.copies) + size_of_val(&*self.removals)
    }
}

/// Digests to look up, 32 bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DigestSet(Box<[Sha256Digest]>);

impl DigestSet {
    pub fn contains(&self, sha256: &Sha256Digest) -> bool {
        self.0.binary_search(sha256).is_ok()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Sha256Digest> for DigestSet {
    fn from_iter<I: IntoIterator<Item = Sha256Digest>>(digests: I) -> Self {
        let mut digests: Vec<_> = digests.into_iter().collect();
        digests.sort_unstable();
        digests.dedup();
        Self(digests.into())
    }
}

/// Returns the contents of the target's files that differ from the file at the same path in the
/// other tree. They are few between versions of one pack, so that only these few cost a lookup.
fn unmatched(target: &Tree, held: &Tree) -> impl Iterator<Item = Sha256Digest> {
    join(target, held).filter_map(|pair| match pair {
        Pair::Target(to) => Some(target.sha256(to)),
        Pair::Both(to, from) => {
            Some(target.sha256(to)).filter(|sha256| *sha256 != held.sha256(from))
        }
        Pair::Base(_) => None,
    })
}

/// Returns the first file with each of these contents.
fn firsts(
    target: &Tree,
    contents: impl Iterator<Item = Sha256Digest>,
) -> impl Iterator<Item = u32> {
    contents.filter_map(|sha256| target.positions_with(&sha256).first().copied())
}

fn need_of(target: &Tree, contents: impl Iterator<Item = Sha256Digest>) -> Need {
    Need::from_positions(firsts(target, contents), target.len()).expect("positions of this target")
}

/// Returns the files that are not needed themselves but have the content of a needed one.
fn duplicates(target: &Tree, need: &Need) -> Box<[Duplicate]> {
    if need.len() == target.len() {
        return Box::default();
    }
    let mut duplicates = Vec::new();
    let mut seen = HashSet::new();
    for needed in need.positions() {
        let same = target.positions_with(&target.sha256(needed));
        // Visit each content once: otherwise a need of a thousand equal files would cost a million
        // steps.
        if same.len() > 1 && seen.insert(same[0]) {
            let others = same
                .iter()
                .copied()
                .filter(|position| !need.contains(*position));
            // Needed positions are in order: this is the first with its content.
            duplicates.extend(others.map(|position| Duplicate {
                position,
                source: needed,
            }));
        }
    }
    duplicates.sort_unstable_by_key(|duplicate| duplicate.position);
    duplicates.into()
}

/// Finds a file of the base for each of these positions of the target, if any has its content.
///
/// Files that will be removed are taken first, each once: these copies are moves.
fn find_sources(
    target: &Tree,
    base: &Tree,
    positions: &[u32],
    removals: &[u32],
) -> Vec<ContentCopy> {
    // For each content, the number of its files in the base that were tried as sources of a move.
    let mut looked_at: HashMap<u32, usize> = HashMap::new();
    let mut copies = Vec::new();
    for &to in positions {
        let sources = base.positions_with(&target.sha256(to));
        let Some(&first) = sources.first() else {
            continue;
        };
        let next = looked_at.entry(first).or_default();
        let going = sources[*next..]
            .iter()
            .position(|source| removals.binary_search(source).is_ok());
        match going {
            Some(skipped) => {
                copies.push(ContentCopy {
                    to,
                    from: sources[*next + skipped],
                    is_move: true,
                });
                *next += skipped + 1;
            }
            None => {
                copies.push(ContentCopy {
                    to,
                    from: first,
                    is_move: false,
                });
                *next = sources.len();
            }
        }
    }
    copies
}

/// Membership in two ascending sequences, for queries in ascending order.
struct Merged<A: Iterator<Item = u32>, B: Iterator<Item = u32>> {
    needed: iter::Peekable<A>,
    duplicates: iter::Peekable<B>,
}

impl<A: Iterator<Item = u32>, B: Iterator<Item = u32>> Merged<A, B> {
    fn contains(&mut self, position: u32) -> bool {
        self.needed.next_if_eq(&position).is_some()
            || self.duplicates.next_if_eq(&position).is_some()
    }
}

/// A path in one tree or both, by its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    Target(u32),
    Base(u32),
    Both(u32, u32),
}

/// Iterates over all paths of both trees in order.
fn join(target: &Tree, base: &Tree) -> impl Iterator<Item = Pair> {
    let (mut to, mut from) = (0, 0);
    iter::from_fn(move || {
        let order = match (to < target.len(), from < base.len()) {
            (false, false) => return None,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (true, true) => target.path(to).cmp(base.path(from)),
        };
        let pair = match order {
            Ordering::Less => Pair::Target(to),
            Ordering::Greater => Pair::Base(from),
            Ordering::Equal => Pair::Both(to, from),
        };
        to += u32::from(order.is_le());
        from += u32::from(order.is_ge());
        Some(pair)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::tree_of;

    type Files = BTreeMap<String, (u8, bool)>;

    fn tree(files: &Files) -> Tree {
        let contents: Vec<[u8; 1]> = files.values().map(|(content, _)| [*content]).collect();
        let entries = files.iter().zip(&contents);
        tree_of(
            entries.map(|((path, (_, executable)), content)| {
                (path.as_str(), &content[..], *executable)
            }),
        )
    }

    fn files(text: &str) -> Files {
        text.split_whitespace()
            .map(|word| {
                let (path, content) = word.split_once('=').unwrap();
                (
                    path.to_owned(),
                    (content.as_bytes()[0], content.ends_with('!')),
                )
            })
            .collect()
    }

    /// Compares words such as `+a b<a c<-d -e`: sent, copied, moved, removed, with `b<<a` for a
    /// duplicate.
    fn check(base: &str, target: &str, expected: &str) {
        let (base, target) = (tree(&files(base)), tree(&files(target)));
        let need = lacking(&target, &base);
        let diff = Diff::new(&target, Some(&base), &need);
        let mut words: Vec<String> = need
            .positions()
            .map(|at| format!("+{}", target.path(at)))
            .collect();
        words.extend(
            diff.duplicates
                .iter()
                .map(|it| format!("{}<<{}", target.path(it.position), target.path(it.source))),
        );
        words.extend(diff.copies.iter().map(|copy| {
            let sign = if copy.is_move { "<-" } else { "<" };
            format!("{}{sign}{}", target.path(copy.to), base.path(copy.from))
        }));
        words.extend(
            diff.removals
                .iter()
                .map(|from| format!("-{}", base.path(*from))),
        );
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn a_diff_tells_what_to_do() {
        check("", "", "");
        check("a=1 b=2", "a=1 b=2", "");
        check("", "a=1 b=2", "+a +b");
        check("a=1", "a=2", "+a");
        check("a=1", "", "-a");
        check("a=1", "b=1", "b<-a -a");
        check("a=1", "a=1 b=1", "b<a");
        check("a=1", "a=2 b=1", "+a b<a");
        check("a=1 b=2", "a=2 b=1", "a<b b<a");
        check("", "a=1 b=1 c=1", "+a b<<a c<<a");
        check("a=1", "a=1!", "a<a");
        check("a=1!", "b=1", "b<-a -a");
        check("a=1 b=1 c=1", "c=1 x=1 y=1 z=1", "x<-a y<-b z<a -a -b");
    }

    #[test]
    fn what_is_asked_for_is_sent_itself() {
        let base = tree(&files("a=1 b=1 c=2 e=5"));
        let target = tree(&files("a=1 b=1 c=2 d=1 m=3 n=3"));
        let check = |except: &[&'static str], sent: &str, restored: &str| {
            let except: Vec<_> = except
                .iter()
                .map(|path| EntryPath::parse(*path).unwrap())
                .collect();
            let need = lacking_except(&target, &base, &except).unwrap();
            let diff = Diff::new(&target, Some(&base), &need);
            let paths = |positions: &mut dyn Iterator<Item = u32>| {
                let paths: Vec<&str> = positions.map(|at| target.path(at)).collect();
                paths.join(" ")
            };
            assert_eq!(paths(&mut need.positions()), sent, "{except:?}");
            let mut duplicates = diff.duplicates.iter().map(|it| it.position);
            assert_eq!(paths(&mut duplicates), restored, "{except:?}");
        };
        check(&[], "m", "n");
        check(&["b"], "b m", "a d n");
        // A missing content is requested under its new path, whether or not another entry has it.
        check(&["m"], "m", "n");
        check(&["n"], "n", "m");
        check(&["m", "n"], "m n", "");
        check(&["d"], "d m", "a b n");
        // A file that will be removed, and one that is not needed.
        check(&["e"], "m", "n");
        check(&["a", "c"], "a c m", "b d n");

        let stranger = EntryPath::parse("x").unwrap();
        assert_eq!(
            lacking_except(&target, &base, [&stranger])
                .unwrap_err()
                .to_string(),
            "neither version has a file `x`"
        );
    }

    fn any_files() -> impl Strategy<Value = Files> {
        proptest::collection::btree_map("[a-f]{1,2}", (0..6_u8, any::<bool>()), 0..12)
    }

    proptest! {
        #[test]
        fn applying_a_diff_makes_the_target(base in any_files(), target in any_files(), except in any::<u64>()) {
            let (base_tree, target_tree) = (tree(&base), tree(&target));
            let lost: Vec<EntryPath<'_>> = base
                .keys()
                .enumerate()
                .filter(|(index, _)| except >> index & 1 == 1)
                .map(|(_, path)| EntryPath::parse(path.as_str()).unwrap())
                .collect();
            let need = lacking_except(&target_tree, &base_tree, &lost).unwrap();
            let diff = Diff::new(&target_tree, Some(&base_tree), &need);

            // The receiver really lacks the lost files: applying the diff must not look at them.
            let held: Files = base
                .iter()
                .filter(|(path, _)| lost.iter().all(|lost| lost.as_str() != path.as_str()))
                .map(|(path, file)| (path.clone(), *file))
                .collect();
            let mut applied = held.clone();
            for removal in &diff.removals {
                applied.remove(base_tree.path(*removal));
            }
            let copied: Vec<_> = diff.copies.iter().map(|copy| (copy.to, held[base_tree.path(copy.from)].0)).collect();
            let sent = need.positions().chain(diff.duplicates.iter().map(|duplicate| {
                assert!(need.contains(duplicate.source));
                assert_eq!(target_tree.sha256(duplicate.source), target_tree.sha256(duplicate.position));
                duplicate.position
            }));
            let sent: Vec<_> = sent.map(|position| (position, target[target_tree.path(position)].0)).collect();
            for (position, content) in copied.into_iter().chain(sent) {
                let path = target_tree.path(position);
                applied.insert(path.to_owned(), (content, target_tree.executable(position)));
            }
            prop_assert_eq!(&applied, &target);

            // Nothing is sent twice, and held contents only on request.
            let mut contents = HashSet::new();
            let lost_contents: HashSet<u8> = lost.iter().map(|path| base[path.as_str()].0).collect();
            let is_asked = |position| lost.iter().any(|path| path.as_str() == target_tree.path(position));
            for position in need.positions().filter(|position| !is_asked(*position)) {
                let content = target[target_tree.path(position)].0;
                prop_assert!(contents.insert(content));
                prop_assert!(lost_contents.contains(&content) || base.values().all(|(held, _)| *held != content));
            }
            prop_assert!(diff.copies.iter().filter(|copy| copy.is_move).all(|copy| diff.removals.contains(&copy.from)));
        }

        #[test]
        fn digests_alone_say_what_is_lacking(base in any_files(), target in any_files()) {
            let (base, target) = (tree(&base), tree(&target));
            let held: DigestSet = base.entries().map(|entry| entry.sha256).collect();
            prop_assert_eq!(lacking_digests(&target, &held), lacking(&target, &base));
        }
    }
}
