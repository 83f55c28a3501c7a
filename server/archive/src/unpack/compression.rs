//! Incremental decompression of a tar inside gzip or zstd.

use std::fmt;
use std::io::Write as _;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use zstd::stream::raw::{DParameter, InBuffer, Operation as _, OutBuffer};

use super::UnpackFault;
use super::input::Input;

/// Decompressor of one stream; consecutive gzip members or zstd frames count as one.
pub(super) enum Decompressor {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd {
        decoder: zstd::stream::raw::Decoder<'static>,
        is_between_frames: bool,
    },
}

impl Decompressor {
    pub(super) fn gzip() -> Self {
        Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))
    }

    pub(super) fn zstd() -> Self {
        let mut decoder = zstd::stream::raw::Decoder::new().expect("only memory can be lacking");
        decoder
            .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
            .expect("the value is one that the library allows");
        Self::Zstd {
            decoder,
            is_between_frames: true,
        }
    }

    /// Decompresses some bytes; false if more input is needed.
    pub(super) fn advance(
        &mut self,
        input: &mut Input,
        output: &mut Input,
    ) -> Result<bool, UnpackFault> {
        match self {
            Self::Gzip(decoder) => {
                let count = input.available().len().min(GZIP_CHUNK);
                if count > 0 {
                    decoder
                        .write_all(&input.available()[..count])
                        .map_err(|_| UnpackFault::Damaged)?;
                    decoder.flush().map_err(|_| UnpackFault::Damaged)?;
                    input.skip(count);
                } else if input.is_finished() {
                    // Fails if the last member is incomplete or its checksum is wrong.
                    decoder.try_finish().map_err(|_| UnpackFault::Truncated)?;
                    output.finish();
                }
                let decompressed = std::mem::take(decoder.get_mut());
                let has_advanced = count > 0 || output.is_finished();
                if !decompressed.is_empty() {
                    output.feed(Bytes::from(decompressed));
                }
                Ok(has_advanced)
            }
            Self::Zstd {
                decoder,
                is_between_frames,
            } => {
                let mut decompressed = Vec::with_capacity(ZSTD_CHUNK);
                // Feed the first byte of a frame alone. Otherwise zstd would decode a small frame
                // at once whenever it is completely in memory, by other rules (about a stated size,
                // say) than those for streams.
                let mut available = input.available();
                if *is_between_frames {
                    available = &available[..available.len().min(1)];
                }
                let mut source = InBuffer::around(available);
                let mut sink = OutBuffer::around(&mut decompressed);
                let hint = decoder
                    .run(&mut source, &mut sink)
                    .map_err(|_| UnpackFault::Damaged)?;
                let count = source.pos();
                if count > 0 || !decompressed.is_empty() {
                    *is_between_frames = hint == 0;
                    input.skip(count);
                    if !decompressed.is_empty() {
                        output.feed(Bytes::from(decompressed));
                    }
                    return Ok(true);
                }
                if !input.is_finished() {
                    return Ok(false);
                }
                if !*is_between_frames {
                    return Err(UnpackFault::Truncated);
                }
                output.finish();
                Ok(true)
            }
        }
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Zstd { .. } => "Zstd",
        })
    }
}

/// Maximum input of gzip at once, in bytes: deflate expands it at most 1,032 times, to 4 MiB.
const GZIP_CHUNK: usize = 4 * 1024;

/// Maximum output of zstd at once, in bytes.
const ZSTD_CHUNK: usize = 128 * 1024;

/// Binary logarithm of the maximum window: 8 MiB, which RFC 8878 (section 3.1.1.1.2) requires of
/// every decoder; levels up to 19 need no more.
const MAX_WINDOW_LOG: u32 = 23;
