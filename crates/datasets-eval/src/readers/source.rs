//! The bytes of a data file, decompressed where its name ends in `.zst`.

use std::io::Read;
use std::path::Path;

use crate::config::is_zstd;
use crate::{DataError, Result};

/// Reads a file. Every frame of a compressed one is decoded, as the `zstd` program writes them, one after the other.
pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |source, hint| DataError::Io { file: file.into(), source, hint };
    let bytes = std::fs::read(file).map_err(|source| failed(source, "give the path of a readable file"))?;
    if !is_zstd(file) {
        return Ok(bytes);
    }
    let damaged = |reason: String| {
        failed(std::io::Error::other(reason), "give a whole file of the zstd program, or one without the ending .zst")
    };
    let mut rest = bytes.as_slice();
    let mut text = Vec::new();
    while !rest.is_empty() {
        let mut decoder = match ruzstd::decoding::StreamingDecoder::new(&mut rest) {
            Ok(decoder) => decoder,
            // A frame that holds no data, to be passed over: its header says how long it is.
            Err(ruzstd::decoding::errors::FrameDecoderError::ReadFrameHeaderError(
                ruzstd::decoding::errors::ReadFrameHeaderError::SkipFrame { length, .. },
            )) => {
                rest = rest.get(length as usize..).ok_or_else(|| damaged("it is cut off".into()))?;
                continue;
            }
            Err(error) => return Err(damaged(error.to_string())),
        };
        decoder.read_to_end(&mut text).map_err(|error| damaged(error.to_string()))?;
        let (stored, found) = (decoder.decoder.get_checksum_from_data(), decoder.decoder.get_calculated_checksum());
        if stored.is_some() && stored != found {
            return Err(damaged("its checksum is another".into()));
        }
    }
    Ok(text)
}
