//! Asking somebody else before an upload begins: whether it may, and as what.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::Serialize;

use crate::FilePath;
use crate::file::Description;
use crate::upload::{Plan, Target};

/// What a gatekeeper is asked of: an upload, or a body that is to be a file without one, before anything of it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// The path of the file that it is to be; none where the server is to name it, or it is for a pack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The pack that its archive is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack: Option<String>,
    /// How many bytes it is to have, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// The media type that the client states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The file name that the client states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Whose API key it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// As in [`Plan::client_ref`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ref: Option<String>,
    /// As in [`Plan::tus_metadata`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tus_metadata: Option<String>,
    /// `partial` or `final`, where it is a part of others or made of others (tus concatenation).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tus_concat: Option<&'static str>,
    /// Whether it is to outlive its request.
    pub resumable: bool,
}

/// What a gatekeeper changes; what it leaves out stays as the client said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendment {
    /// The path of the file; without a meaning for packs.
    pub path: Option<FilePath>,
    /// The media type of the file.
    pub media_type: Option<String>,
    /// The name to save the file under.
    pub filename: Option<String>,
}

/// Why an upload may not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// It is refused.
    Refused {
        /// Why, for the client, where that is told: a bounded text of one line.
        detail: Option<String>,
    },
    /// Nobody could say whether it may, and then it may not.
    Unavailable,
}

/// Says whether uploads may begin.
#[async_trait]
pub trait Gatekeeper: Debug + Send + Sync + 'static {
    /// Whether an upload may begin, and what of it is to be another way. Ends within a bounded time.
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    async fn ask(&self, proposal: &Proposal) -> Result<Amendment, Closed>;
}

impl Proposal {
    /// The upload of this plan; `is_named` says whether the client chose its target.
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
    /// Makes the plan what the gatekeeper says.
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
