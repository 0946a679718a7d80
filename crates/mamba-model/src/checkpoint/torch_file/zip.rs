//! The table of contents of a zip archive in memory, ZIP64 included (PKWARE APPNOTE 4.3, 4.4, 4.5.3).
//!
//! Torch stores its entries uncompressed so that they can be used where they lie; this reader gives their byte ranges
//! and refuses compressed or encrypted entries. It does not extract, and it does not check CRCs.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Refusal;

const END: u32 = 0x0605_4b50;
const END_LEN: usize = 22;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const END64_LOCATOR_LEN: usize = 20;
const CENTRAL: u32 = 0x0201_4b50;
const CENTRAL_LEN: usize = 46;
const LOCAL: u32 = 0x0403_4b50;
const LOCAL_LEN: usize = 30;
/// Extra field with the 64-bit values of whatever does not fit its 32-bit field.
const ZIP64_EXTRA: u16 = 1;

/// The byte ranges of the entries, by name.
pub(super) fn entries(file: &[u8]) -> Result<BTreeMap<String, Range<usize>>, Refusal> {
    let (count, mut at) = directory(file)?;
    let mut entries = BTreeMap::new();
    for number in 0..count {
        let (name, range, next) = entry(file, at).map_err(|refusal| refusal.within(&format!("zip entry {number}")))?;
        if entries.insert(name.clone(), range).is_some() {
            return Err(Refusal::damaged(format!("zip entry `{name}` is there twice")));
        }
        at = next;
    }
    Ok(entries)
}

/// Number of entries, and where the central directory starts.
fn directory(file: &[u8]) -> Result<(u64, usize), Refusal> {
    let end = find_end(file).ok_or_else(|| Refusal::damaged("the zip directory at the end of the file is missing"))?;
    let locator = end.checked_sub(END64_LOCATOR_LEN).filter(|&at| u32_at(file, at) == Some(END64_LOCATOR));
    let (count, offset) = match locator {
        None => (u16_at(file, end + 10).map(u64::from), u32_at(file, end + 16).map(u64::from)),
        Some(locator) => {
            let end64 = u64_at(file, locator + 8).and_then(|at| usize::try_from(at).ok());
            let end64 = end64.filter(|&at| u32_at(file, at) == Some(END64));
            let Some(end64) = end64 else { return Err(Refusal::damaged("the zip64 end record is missing")) };
            (u64_at(file, end64.saturating_add(32)), u64_at(file, end64.saturating_add(48)))
        }
    };
    match (count, offset.and_then(|offset| usize::try_from(offset).ok())) {
        (Some(count), Some(offset)) => Ok((count, offset)),
        _ => Err(Refusal::damaged("the zip end record is cut off")),
    }
}

/// The end record: the last place with its signature whose comment reaches exactly to the end of the file.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_LEN)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        u32_at(file, at) == Some(END)
            && u16_at(file, at + 20).is_some_and(|comment| at + END_LEN + usize::from(comment) == file.len())
    })
}

/// Name and data range of the entry whose central header is at `at`, and where the next header is.
fn entry(file: &[u8], at: usize) -> Result<(String, Range<usize>, usize), Refusal> {
    let cut_off = || Refusal::damaged("its header is cut off");
    let header = at.checked_add(CENTRAL_LEN).and_then(|end| file.get(at..end)).ok_or_else(cut_off)?;
    if u32_at(header, 0) != Some(CENTRAL) {
        return Err(Refusal::damaged("its header lacks the signature"));
    }
    let small = |offset: usize| u16_at(header, offset).map_or(0, usize::from);
    let (flags, method) = (small(8), small(10));
    let (name_len, extra_len, comment_len) = (small(28), small(30), small(32));
    let name_at = at + CENTRAL_LEN;
    let name = file.get(name_at..name_at + name_len).ok_or_else(cut_off)?;
    let name = String::from_utf8(name.to_vec()).map_err(|_| Refusal::damaged("its name is not UTF-8"))?;
    let extra = file.get(name_at + name_len..name_at + name_len + extra_len).ok_or_else(cut_off)?;
    if flags & 1 != 0 || method != 0 {
        return Err(Refusal::Unsupported(format!(
            "zip entry `{name}` is compressed or encrypted, which torch never writes; unpack the archive and zip it \
             with method \"store\""
        )));
    }

    let mut wide = zip64_values(extra);
    let mut field = |offset: usize| match u32_at(header, offset) {
        Some(u32::MAX) => wide.next(),
        value => value.map(u64::from),
    };
    // Saturated fields take their 64-bit values in this order.
    let (size, stored_size, local) = (field(24), field(20), field(42));
    let (Some(size), Some(stored_size), Some(local)) = (size, stored_size, local) else {
        return Err(Refusal::damaged(format!("`{name}` lacks its 64-bit sizes")));
    };
    if size != stored_size {
        return Err(Refusal::damaged(format!("`{name}` has two sizes, {size} and {stored_size}")));
    }
    let range = data_range(file, local, size)
        .ok_or_else(|| Refusal::damaged(format!("the {size} bytes of `{name}` are not all in the file")))?;
    Ok((name, range, name_at + name_len + extra_len + comment_len))
}

/// The data behind a local header, if header and data lie in the file.
fn data_range(file: &[u8], local: u64, size: u64) -> Option<Range<usize>> {
    let local = usize::try_from(local).ok()?;
    let header = file.get(local..local.checked_add(LOCAL_LEN)?)?;
    if u32_at(header, 0)? != LOCAL {
        return None;
    }
    let start = local + LOCAL_LEN + usize::from(u16_at(header, 26)?) + usize::from(u16_at(header, 28)?);
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= file.len()).then_some(start..end)
}

/// The values of the ZIP64 extra field, in order; none without one.
fn zip64_values(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut values = &extra[..0];
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(body) = extra.get(4..4 + usize::from(len)) else { break };
        if id == ZIP64_EXTRA {
            values = body;
        }
        extra = &extra[4 + usize::from(len)..];
    }
    values.as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes))
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}
