//! System calls that the standard library lacks, some of them specific to Linux. Elsewhere the
//! hints do nothing.

use std::fs::File;
use std::io;
use std::ops::Range;

/// Reads at `offset` from the page cache and returns the number of bytes; 0 at the end of the file.
/// `None` if the read would wait for the disk, or if the file system cannot tell.
#[cfg(target_os = "linux")]
pub(super) fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    // An ordinary read will report all other errors.
    preadv2(
        file,
        &mut [io::IoSliceMut::new(buffer)],
        offset,
        ReadWriteFlags::NOWAIT,
    )
    .ok()
}

/// Returns `None`, unlike the Linux version.
#[cfg(not(target_os = "linux"))]
pub(super) fn read_cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// Asks the kernel to begin to write these bytes to the disk, without waiting. The next sync
/// reports a failure.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "neither the standard library nor rustix has sync_file_range"
)]
pub(super) fn start_write_back(file: &File, range: Range<u64>) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(length)) = (
        i64::try_from(range.start),
        i64::try_from(range.end.saturating_sub(range.start)),
    ) else {
        return;
    };
    // SAFETY: the call takes integers only, and `file` keeps the descriptor open for its duration.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

/// Does nothing, unlike the Linux version.
#[cfg(not(target_os = "linux"))]
pub(super) fn start_write_back(_: &File, _: Range<u64>) {}
