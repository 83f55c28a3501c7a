//! Nodes that pause in the middle of a request and go on when others have long gone on without them.
