//! The port to a gatekeeper, which approves, amends or refuses uploads before they begin.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::Serialize;

use crate::FilePath;
use crate::file::Description;
use crate::upload::{Plan, Target};

/// Subject of a gatekeeper's decision: an upload, or a body that becomes a file without one, before
/// anything of it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// The path of the target file; none if the server names it, or for a pack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The pack that the archive is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack: Option<String>,
    /// The length in bytes, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// The media type that the client states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The file name that the client states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// The name of the API key in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// See [`Plan::client_ref`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ref: Option<String>,
    /// See [`Plan::tus_metadata`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tus_metadata: Option<String>,
    /// `partial` or `final`, if the upload is a part of others or made of others (tus
    /// concatenation).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tus_concat: Option<&'static str>,
    /// True if the upload outlives its request.
    pub resumable: bool,
}

/// Changes that a gatekeeper makes; an absent field keeps the client's value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendment {
    /// The path of the file; ignored for packs.
    pub path: Option<FilePath>,
    /// The media type of the file.
    pub media_type: Option<String>,
    /// The name to save the file under.
    pub filename: Option<String>,
}

/// Reasons to reject an upload before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The gatekeeper refuses the upload.
    Refused {
        /// The reason to show to the client, if any: a bounded text of one line.
        detail: Option<String>,
    },
    /// No gatekeeper could decide, so the upload may not begin.
    Unavailable,
}

/// Decides which uploads may begin.
#[async_trait]
pub trait Gatekeeper: Debug + Send + Sync + 'static {
    /// Approves an upload, possibly amended, or refuses it. Returns within a bounded time.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    async fn ask(&self, proposal: &Proposal) -> Result<Amendment, Closed>;
}

impl Proposal {
    /// Describes the upload of this plan; `is_named` is true if the client chose its target.
    pub(crate) fn new(plan: &Plan, is_named: bool, length: Option<u64>, resumable: bool) -> Self {
        let (path, pack) = match &plan.target {
            Target::File(path) => (is_named.then(|| path.to_string()), None),
            Target::Draft { pack, .. } | Target::Pack(pack) => (None, Some(pack.to_string())),
        };
        let Description {
            media_type,
            filename,
        } = plan.description.clone();
        Self {
            path,
            pack,
            length,
            media_type,
            filename,
            owner: plan.owner.clone(),
            client_ref: plan.client_ref.clone(),
            tus_metadata: plan.tus_metadata.clone(),
            tus_concat: match (plan.is_part(), plan.is_concatenation()) {
                (true, _) => Some("partial"),
                (false, true) => Some("final"),
                (false, false) => None,
            },
            resumable,
        }
    }
}

impl Amendment {
    /// Applies the amendment to the plan.
    pub(crate) fn apply(&self, plan: &mut Plan) {
        if let (Some(path), Target::File(target)) = (&self.path, &mut plan.target) {
            *target = path.clone();
        }
        let Description {
            media_type,
            filename,
        } = &mut plan.description;
        for (amended, stated) in [(&self.media_type, media_type), (&self.filename, filename)] {
            if amended.is_some() {
                stated.clone_from(amended);
            }
        }
    }
}
