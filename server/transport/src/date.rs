//! The `Date` of answers (RFC 9110 §6.6.1), formatted once a second.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;

thread_local! {
    static LAST: RefCell<(u64, HeaderValue)> =
        const { RefCell::new((0, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))) };
}

/// Returns the present second as a field value.
pub(crate) fn now() -> HeaderValue {
    #[expect(
        clippy::disallowed_methods,
        reason = "the field tells the machine's time and decides nothing"
    )]
    let second = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    LAST.with_borrow_mut(|(last, value)| {
        if *last != second {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            *value = HeaderValue::from_str(&text).expect("a date is ASCII");
            *last = second;
        }
        value.clone()
    })
}
