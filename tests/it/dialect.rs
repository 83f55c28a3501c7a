//! The protocol elements of each version of the IETF's resumable uploads.

use tests::{Head, Request};

/// Versions of the protocol on phones in use, and the final form.
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

    /// Turns `request` into a creation; `completes` says whether its body is all of the content.
    pub(crate) fn create(self, request: Request, completes: bool) -> Request {
        let (name, value) = self.completeness(completes);
        self.versioned(request).field(name, value)
    }

    /// Returns an append at `offset`, without its body.
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

    /// Returns the `HEAD` request for the offset of an upload.
    pub(crate) fn head(self, upload: &str) -> Request {
        self.versioned(Request::head(upload))
    }

    /// Returns the request that cancels an upload.
    pub(crate) fn cancel(self, upload: &str) -> Request {
        self.versioned(Request::delete(upload))
    }

    /// Returns the completeness that an answer reports, if any.
    pub(crate) fn is_complete(self, head: &Head) -> Option<bool> {
        let (name, complete) = self.completeness(true);
        let (_, incomplete) = self.completeness(false);
        head.optional(name).map(|value| {
            assert!(value == complete || value == incomplete, "{name}: {value}");
            value == complete
        })
    }

    /// Returns the field that carries completeness, with its value. Interop 3 states the opposite
    /// of the later versions.
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
