//! Who may do what.
pub struct Authorized<S>(S);
