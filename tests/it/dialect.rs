//! How each version of IETF resumable uploads says the same things.

use tests::{Head, Request};

/// The versions that phones in use speak, and the final form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// iOS 17.
    Interop3,
    /// iOS 18.0.
    Interop5,
    /// iOS 18.1 and later.
    Interop6,
    /// The form of the final RFC: no interop field.
    Rfc,
}

impl Dialect {
    pub(crate) const ALL: [Self; 4] = [Self::Interop3, Self::Interop5, Self::Interop6, Self::Rfc];

    /// The number in `Upload-Draft-Interop-Version`.
    pub(crate) fn interop(self) -> Option<&'static str> {
        match self {
            Self::Interop3 => Some("3"),
            Self::Interop5 => Some("5"),
            Self::Interop6 => Some("6"),
            Self::Rfc => None,
        }
    }

    /// Makes `request` a creation; `completes` when its body is all there will be.
    pub(crate) fn create(self, request: Request, completes: bool) -> Request {
        let (name, value) = self.completeness(completes);
        self.versioned(request).field(name, value)
    }

    /// An append at `offset`, without its body.
    pub(crate) fn append(self, upload: &str, offset: u64, completes: bool) -> Request {
        let (name, value) = self.completeness(completes);
        let request = self
            .versioned(Request::patch(upload))
            .field("Upload-Offset", offset)
            .field(name, value);
        match self {
            Self::Interop3 | Self::Interop5 => request,
            Self::Interop6 | Self::Rfc => {
                request.field("Content-Type", "application/partial-upload")
            }
        }
    }

    /// The question how far the upload is.
    pub(crate) fn head(self, upload: &str) -> Request {
        self.versioned(Request::head(upload))
    }

    /// The request that gives the upload up.
    pub(crate) fn cancel(self, upload: &str) -> Request {
        self.versioned(Request::delete(upload))
    }

    /// What an answer says of completeness, if anything.
    pub(crate) fn is_complete(self, head: &Head) -> Option<bool> {
        let (name, complete) = self.completeness(true);
        let (_, incomplete) = self.completeness(false);
        head.optional(name).map(|value| {
            assert!(value == complete || value == incomplete, "{name}: {value}");
            value == complete
        })
    }

    /// The field that tells it, with its value. Interop 3 says the opposite of the later ones.
    fn completeness(self, completes: bool) -> (&'static str, &'static str) {
        match (self, completes) {
            (Self::Interop3, true) => ("Upload-Incomplete", "?0"),
            (Self::Interop3, false) => ("Upload-Incomplete", "?1"),
            (Self::Interop5 | Self::Interop6 | Self::Rfc, true) => ("Upload-Complete", "?1"),
            (Self::Interop5 | Self::Interop6 | Self::Rfc, false) => ("Upload-Complete", "?0"),
        }
    }

    fn versioned(self, request: Request) -> Request {
        match self.interop() {
            Some(version) => request.field("Upload-Draft-Interop-Version", version),
            None => request,
        }
    }
}
