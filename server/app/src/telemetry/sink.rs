//! Writer of standard error on a thread of its own, so that a slow or absent reader never delays
//! the service.
//!
//! Logging a line only hands it over: it never waits and never fails, whatever the state of
//! standard error (a reader that is gone, a full disk, a pipe that nobody empties). Lines that
//! cannot be written, or for which the buffer has no room, are dropped and counted; the next line
//! that can be written is preceded by their number.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Maximum number of bytes that wait to be written.
const ROOM: usize = 1024 * 1024;
/// Delay before the next try on a non-blocking terminal or pipe that takes nothing now.
const PAUSE: Duration = Duration::from_millis(10);

/// Formats the line that reports the number of lost lines.
pub(super) type Notice = fn(u64) -> String;

/// Handle to the writing thread; each `write` is one line. Clones share the thread.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes in `lines`.
    held: usize,
    /// Dropped lines that are not reported yet.
    lost: u64,
    /// True while the thread writes a line.
    writing: bool,
}

impl Shared {
    /// No code panics while it holds the lock; even then the lines would be intact.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub(super) fn start(out: impl Write + Send + 'static, notice: Notice) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writer = Writer {
            shared: Arc::clone(&shared),
            out,
            notice,
            torn: false,
        };
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || writer.run())?;
        Ok(Self { shared })
    }

    /// Waits until all lines are written or lost, for at most `limit`.
    pub(super) fn settle(&self, limit: Duration) {
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        let state = self.shared.state();
        drop(self.shared.changed.wait_timeout_while(state, limit, busy));
    }
}

impl Write for Sink {
    /// Queues the whole line, or drops and counts it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        if state.held + line.len() > ROOM {
            state.lost += 1;
        } else {
            state.held += line.len();
            state.lines.push_back(line.to_owned());
            self.shared.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// State of the thread.
struct Writer<W> {
    shared: Arc<Shared>,
    out: W,
    notice: Notice,
    /// True if the last line was written only in part.
    torn: bool,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        loop {
            let (line, lost) = self.next();
            // The number of lost lines comes before the next line that is written.
            let told = match lost {
                0 => true,
                lost => self.put((self.notice)(lost).as_bytes()),
            };
            let written = told && self.put(&line);
            let mut state = self.shared.state();
            if told {
                state.lost -= lost;
            }
            if !written {
                state.lost += 1;
            }
            state.writing = false;
            self.shared.changed.notify_all();
        }
    }

    /// Waits for the next line; returns it with the number of lines that were lost before it.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.shared.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.held -= line.len();
                state.writing = true;
                return (line, state.lost);
            }
            let changed = self.shared.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes a line; returns true if all of it is written.
    fn put(&mut self, line: &[u8]) -> bool {
        if self.torn {
            match self.write(b"\n") {
                Ok(()) => self.torn = false,
                Err(_) => return false,
            }
        }
        match self.write(line) {
            Ok(()) => true,
            Err(written) => {
                self.torn = written > 0;
                false
            }
        }
    }

    /// Writes all bytes; the error has the number of bytes that were written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => return Err(written),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(_) => return Err(written),
            }
        }
        self.out.flush().map_err(|_| written)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn notice(lost: u64) -> String {
        format!("({lost} lost)\n")
    }

    /// Fails when and how it is told to, and takes two bytes at a time.
    #[derive(Clone, Default)]
    struct Place(Arc<Mutex<Inner>>);

    #[derive(Default)]
    struct Inner {
        text: String,
        /// Bytes that there is room for, if there is a bound.
        room: Option<usize>,
        kind: Option<ErrorKind>,
    }

    impl Place {
        fn fails_after(&self, room: usize, kind: ErrorKind) {
            let mut inner = self.0.lock().unwrap();
            (inner.room, inner.kind) = (Some(room), Some(kind));
        }

        fn works(&self) {
            self.0.lock().unwrap().room = None;
        }

        fn text(&self) -> String {
            self.0.lock().unwrap().text.clone()
        }
    }

    impl Write for Place {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut inner = self.0.lock().unwrap();
            let count = bytes.len().min(2).min(inner.room.unwrap_or(2));
            if count == 0 {
                return Err(inner.kind.unwrap_or(ErrorKind::Other).into());
            }
            inner.room = inner.room.map(|room| room - count);
            inner
                .text
                .push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(sink: &mut Sink, line: &str) {
        sink.write_all(line.as_bytes()).unwrap();
        sink.settle(LIMIT);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_of() {
        for kind in [
            ErrorKind::BrokenPipe,
            ErrorKind::StorageFull,
            ErrorKind::Other,
        ] {
            let place = Place::default();
            let mut sink = Sink::start(place.clone(), notice).unwrap();
            say(&mut sink, "one\n");
            place.fails_after(0, kind);
            say(&mut sink, "two\n");
            say(&mut sink, "three\n");
            place.works();
            say(&mut sink, "four\n");
            say(&mut sink, "five\n");
            assert_eq!(place.text(), "one\n(2 lost)\nfour\nfive\n");
        }
    }

    #[test]
    fn a_line_that_was_torn_does_not_spoil_the_next() {
        let place = Place::default();
        let mut sink = Sink::start(place.clone(), notice).unwrap();
        place.fails_after(3, ErrorKind::StorageFull);
        say(&mut sink, "abcdef\n");
        place.works();
        say(&mut sink, "next\n");
        assert_eq!(place.text(), "abc\n(1 lost)\nnext\n");
    }

    #[test]
    fn a_notice_that_cannot_be_written_keeps_its_count() {
        let place = Place::default();
        let mut sink = Sink::start(place.clone(), notice).unwrap();
        place.fails_after(0, ErrorKind::BrokenPipe);
        say(&mut sink, "one\n");
        place.fails_after(4, ErrorKind::BrokenPipe);
        say(&mut sink, "two\n");
        place.works();
        say(&mut sink, "three\n");
        assert_eq!(place.text(), "(1 l\n(2 lost)\nthree\n");
    }

    #[test]
    fn a_place_that_takes_nothing_now_is_tried_again() {
        let place = Place::default();
        let mut sink = Sink::start(place.clone(), notice).unwrap();
        place.fails_after(2, ErrorKind::WouldBlock);
        sink.write_all(b"one\n").unwrap();
        place.works();
        sink.settle(LIMIT);
        assert_eq!(place.text(), "one\n");
    }

    /// Waits for as long as the sender lives.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error is the end of the wait.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_keeps_nobody_waiting_and_little_memory() {
        let (release, stuck) = mpsc::channel();
        let mut sink = Sink::start(Stuck(stuck), notice).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..4 * ROOM / line.len() {
            sink.write_all(&line).unwrap();
        }
        let state = sink.shared.state();
        assert!(
            state.held <= ROOM && state.lost >= 3 * 1024 - 1,
            "{state:?}"
        );
        drop(state);
        sink.settle(Duration::from_millis(1));
        drop(release);
        sink.settle(LIMIT);
        assert_eq!(sink.shared.state().held, 0);
    }
}
