//! Plans of archives: everything that determines the bytes, and the entity tag that names them.
//!
//! An archive is a pure function of the format, the target's catalogue, the base's if there is one,
//! the need, and, for a zip, the stored forms of contents. All of these are immutable, and their
//! digests make the entity tag:
//!
//! `zip1-` + base64url(SHA-256(`zip1` ‖ target digest ‖ base digest or 32 zero bytes ‖ forms digest
//! ‖ encoded need))
//!
//! and `tar1-` likewise, without forms. So bytes under one tag never differ, on any node, in any
//! year, and the tag is known before a layout is computed. A change of a single byte of a format
//! (headers, order, the text of `.longhaul/diff.json`) needs a new name, `zip2`, and the old format
//! must be kept as long as its tags are in use.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::catalogue::Catalogue;
use crate::diff;
use crate::forms::Forms;
use crate::need::Need;
use crate::sha256_digest::Sha256Digest;

/// Format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    Zip,
    Tar,
}

/// A selection of entries of a version, for a receiver that may hold another version.
#[derive(Debug, Clone)]
pub struct Plan {
    target: Arc<Catalogue>,
    forms: Arc<Forms>,
    base: Option<Arc<Catalogue>>,
    need: Need,
}

/// The forms or the need of a plan are for another number of entries than the target's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plan's parts belong to different catalogues")]
pub struct PlanError;

/// Opaque part of an archive's strong entity tag, without quotes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveTag(Box<str>);

impl Plan {
    /// Selects all entries, for a receiver that holds nothing.
    pub fn whole(target: Arc<Catalogue>, forms: Arc<Forms>) -> Result<Self, PlanError> {
        let need = Need::all(target.tree().len());
        Self::new(target, forms, None, need)
    }

    /// Selects the entries that the holder of the base lacks.
    pub fn since(
        base: Arc<Catalogue>,
        target: Arc<Catalogue>,
        forms: Arc<Forms>,
    ) -> Result<Self, PlanError> {
        let need = diff::lacking(target.tree(), base.tree());
        Self::new(target, forms, Some(base), need)
    }

    /// Selects entries of the target, for a receiver that holds the base or an unknown tree.
    pub fn new(
        target: Arc<Catalogue>,
        forms: Arc<Forms>,
        base: Option<Arc<Catalogue>>,
        need: Need,
    ) -> Result<Self, PlanError> {
        let entries = target.tree().len();
        if forms.len() != entries || need.entries() != entries {
            return Err(PlanError);
        }
        Ok(Self {
            target,
            forms,
            base,
            need,
        })
    }

    pub fn target(&self) -> &Arc<Catalogue> {
        &self.target
    }

    pub fn base(&self) -> Option<&Arc<Catalogue>> {
        self.base.as_ref()
    }

    pub fn forms(&self) -> &Forms {
        &self.forms
    }

    pub fn need(&self) -> &Need {
        &self.need
    }

    /// Returns the entity tag of this plan's archive; see the module's documentation.
    pub fn tag(&self, format: ArchiveFormat) -> ArchiveTag {
        let base = self
            .base
            .as_ref()
            .map_or(Sha256Digest::from_bytes([0; 32]), |base| base.digest());
        let mut hasher = Sha256::new();
        hasher.update(format.name());
        hasher.update(self.target.digest().as_bytes());
        hasher.update(base.as_bytes());
        match format {
            ArchiveFormat::Zip => hasher.update(self.forms.digest().as_bytes()),
            ArchiveFormat::Tar => {}
        }
        hasher.update(self.need.encode());
        let hash = BASE64_URL_SAFE_NO_PAD.encode(hasher.finalize());
        ArchiveTag(format!("{}-{hash}", format.name()).into())
    }
}

impl ArchiveFormat {
    /// Returns the format with its version, for entity tags and cache keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zip => "zip1",
            Self::Tar => "tar1",
        }
    }

    /// Returns the extension of file names and URLs, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Tar => "tar",
        }
    }

    pub fn from_extension(extension: &str) -> Option<Self> {
        [Self::Zip, Self::Tar]
            .into_iter()
            .find(|format| format.extension() == extension)
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Zip => "application/zip",
            Self::Tar => "application/x-tar",
        }
    }
}

impl ArchiveTag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArchiveTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::forms::{Deflated, Form};
    use crate::testing::catalogue_of;

    #[test]
    fn all_that_the_bytes_depend_on_is_in_the_tag() {
        let old = Arc::new(catalogue_of(1, [("a", &[1; 100][..], false)]));
        let new = Arc::new(catalogue_of(
            2,
            [("a", &[1; 100][..], false), ("b", &[2; 100], false)],
        ));
        let same_tree = Arc::new(catalogue_of(
            3,
            [("a", &[1; 100][..], false), ("b", &[2; 100], false)],
        ));
        let raw = Arc::new(Forms::raw(new.tree()));
        let deflated = |seed: &[u8]| {
            let form = Form::Deflated(Deflated {
                size: 9,
                sha256: Sha256Digest::of(seed),
            });
            Arc::new(Forms::new(new.tree(), |_| form).unwrap())
        };
        let need = Need::from_positions([1], 2).unwrap();

        let plans = [
            Plan::whole(Arc::clone(&new), Arc::clone(&raw)),
            Plan::whole(same_tree, Arc::clone(&raw)),
            Plan::new(Arc::clone(&new), Arc::clone(&raw), None, need.clone()),
            Plan::since(Arc::clone(&old), Arc::clone(&new), Arc::clone(&raw)),
            Plan::new(
                Arc::clone(&new),
                Arc::clone(&raw),
                Some(Arc::clone(&old)),
                Need::all(2),
            ),
        ]
        .map(Result::unwrap);
        assert_eq!(*plans[3].need(), need);
        let formed = [deflated(b"this year's encoder"), deflated(b"next year's")]
            .map(|forms| Plan::whole(Arc::clone(&new), forms).unwrap());

        let mut zips = HashSet::new();
        assert!(
            plans
                .iter()
                .chain(&formed)
                .all(|plan| zips.insert(plan.tag(ArchiveFormat::Zip)))
        );
        let mut tars = HashSet::new();
        assert!(
            plans
                .iter()
                .all(|plan| tars.insert(plan.tag(ArchiveFormat::Tar)))
        );
        assert!(
            formed
                .iter()
                .all(|plan| plan.tag(ArchiveFormat::Tar) == plans[0].tag(ArchiveFormat::Tar))
        );
        assert!(zips.is_disjoint(&tars));
    }

    #[test]
    fn a_tag_stays_what_it_is() {
        let target = Arc::new(catalogue_of(1, [("a", &b"hello"[..], false)]));
        let forms = Arc::new(Forms::raw(target.tree()));
        let plan = Plan::whole(target, forms).unwrap();
        assert_eq!(
            plan.tag(ArchiveFormat::Zip).as_str(),
            "zip1-9pmW3JVTIvfMiuFZhb_GJJzuuUKVXCl5m74i_RKMMhI"
        );
        assert_eq!(
            plan.tag(ArchiveFormat::Tar).as_str(),
            "tar1-Vvx4XfNd_6R5ENU60Hs8HNas-Iju94RnCZL8HfeIKuY"
        );
    }

    #[test]
    fn parts_of_other_catalogues_are_refused() {
        let target = Arc::new(catalogue_of(1, [("a", &b"hello"[..], false)]));
        let other = catalogue_of(1, []);
        let forms = Arc::new(Forms::raw(other.tree()));
        assert_eq!(
            Plan::whole(Arc::clone(&target), forms).unwrap_err(),
            PlanError
        );
        let forms = Arc::new(Forms::raw(target.tree()));
        assert_eq!(
            Plan::new(target, forms, None, Need::all(0)).unwrap_err(),
            PlanError
        );
    }
}
