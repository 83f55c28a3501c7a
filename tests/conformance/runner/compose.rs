//! Turns the request of a vector into bytes on the wire.

use bytes::Bytes;

use crate::content;
use crate::exchange::{Framing, RequestHead};
use crate::server::Target;
use crate::template::{Template, Unset, Variables};
use crate::url::Url;
use crate::vector::{Action, Bytes as Content, Field, Line, Request, Step};
use crate::version::{INTEROP, Version};

/// Everything besides the vector that a request is built from.
pub(crate) struct Composer<'a> {
    pub(crate) target: &'a Target,
    pub(crate) creation: Url,
    pub(crate) version: Version,
    pub(crate) variables: Variables,
}

/// Reason why a line of a vector cannot be carried out.
#[derive(Debug)]
pub(crate) enum Trouble {
    Unset(Unset),
    Failed(String),
}

impl From<Unset> for Trouble {
    fn from(unset: Unset) -> Self {
        Self::Unset(unset)
    }
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl Composer<'_> {
    pub(crate) fn request_head(
        &self,
        step: &Step,
        request: &Request,
    ) -> Result<RequestHead, Trouble> {
        let reference = request.target.expand(&self.variables)?;
        let url = self.creation.resolve(&reference)?;
        let is_creation =
            request.method == "POST" && url == self.creation && self.version != Version::Tus;
        let method = if is_creation {
            &self.target.method
        } else {
            &request.method
        };
        let mut fields = self.target.fields.clone();
        for (_, field) in request
            .fields
            .iter()
            .filter(|(versions, _)| versions.contains(self.version))
        {
            fields.extend(self.field(field)?);
        }
        let framing = self.framing(step, method, &mut fields)?;
        Ok(RequestHead {
            method: method.clone(),
            origin: url.origin,
            path: url.path,
            fields,
            http_1_0: request.http_1_0,
            framing,
        })
    }

    fn field(&self, field: &Field) -> Result<Option<(String, String)>, Unset> {
        Ok(match field {
            Field::Interop => self
                .version
                .interop()
                .map(|number| (INTEROP.to_owned(), number.to_string())),
            Field::PartialUpload => {
                let has_type = self.version.has_partial_upload_type();
                has_type.then(|| {
                    (
                        "Content-Type".to_owned(),
                        "application/partial-upload".to_owned(),
                    )
                })
            }
            Field::Complete(complete) => {
                let (name, value) = self.version.completeness(*complete);
                Some((name.to_owned(), value.to_owned()))
            }
            Field::Named(name, value) => Some((name.clone(), value.expand(&self.variables)?)),
        })
    }

    /// Determines the framing of the body, and the `Content-Length` that the vector leaves to the
    /// client.
    fn framing(
        &self,
        step: &Step,
        method: &str,
        fields: &mut Vec<(String, String)>,
    ) -> Result<Framing, Unset> {
        let declared = fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))
            .map(|(_, value)| value.clone());
        if let Some(length) = declared {
            return Ok(if length == "0" {
                Framing::NoBody
            } else {
                Framing::Length
            });
        }
        let actions = step.script.iter().filter_map(|line| match line {
            Line::Do(versions, _, action) if versions.contains(self.version) => Some(action),
            Line::Do(..) | Line::Cut | Line::Await(_) => None,
        });
        for action in actions {
            match action {
                Action::Body(content) => {
                    let length = self.content(content)?.len();
                    fields.push(("Content-Length".to_owned(), length.to_string()));
                    return Ok(if length == 0 {
                        Framing::NoBody
                    } else {
                        Framing::Length
                    });
                }
                Action::Send(_) | Action::Trailer(..) | Action::End => {
                    return Ok(Framing::Streamed);
                }
                Action::Pause(_) => {}
            }
        }
        if matches!(method, "POST" | "PUT" | "PATCH") {
            fields.push(("Content-Length".to_owned(), "0".to_owned()));
        }
        Ok(Framing::NoBody)
    }

    pub(crate) fn content(&self, content: &Content) -> Result<Bytes, Unset> {
        match content {
            Content::Content(from, to) => {
                let position = |template: &Template| template.position(&self.variables);
                Ok(content::bytes(position(from)?..position(to)?))
            }
            Content::Text(text) => text.expand(&self.variables).map(Bytes::from),
        }
    }
}
