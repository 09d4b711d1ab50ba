//! What a TIFF file says and its decoder does not pass on: the colour profile, where it is of type "undefined" as the ICC wants
//! it, and that there are more pages.

use std::io::{self, Read, Seek, SeekFrom};

/// Of the file's first page.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tags {
    pub icc_profile: Option<Vec<u8>>,
    /// Pages besides it that are no smaller version of one.
    pub has_more_pages: bool,
}

const NEW_SUBFILE_TYPE: u16 = 254;
const ICC_PROFILE: u16 = 34675;
/// No profile is so large; a broken length is.
const MOST_BYTES: u32 = 64 << 20;
/// Directories that are looked at: they might go round in a circle.
const MOST_DIRECTORIES: usize = 64;

/// An entry of a directory.
struct Entry {
    tag: u16,
    count: u32,
    /// The value, or where it is.
    value: u32,
}

struct File<R> {
    file: R,
    big_endian: bool,
}

/// Nothing of a file with 64-bit offsets.
///
/// # Errors
/// The file cannot be read, or is not as it says.
pub(crate) fn tags(file: impl Read + Seek) -> io::Result<Tags> {
    let mut file = File {
        file,
        big_endian: false,
    };
    file.file.seek(SeekFrom::Start(0))?;
    file.big_endian = &file.bytes::<2>()? == b"MM";
    if file.u16()? != 42 {
        return Ok(Tags::default());
    }
    let first = file.u32()?;
    let (entries, mut next) = file.directory(first)?;
    let mut tags = Tags::default();
    if let Some(profile) = entries.iter().find(|entry| entry.tag == ICC_PROFILE) {
        tags.icc_profile = file.data(profile.value, profile.count)?;
    }
    for _ in 0..MOST_DIRECTORIES {
        if next == 0 {
            break;
        }
        let (entries, after) = file.directory(next)?;
        let kind = entries.iter().find(|entry| entry.tag == NEW_SUBFILE_TYPE);
        // Bit 0: a smaller version of another; bit 2: its mask.
        tags.has_more_pages |= kind.map_or(0, |kind| kind.value) & 0b101 == 0;
        next = after;
    }
    Ok(tags)
}

impl<R: Read + Seek> File<R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        let bytes = self.bytes()?;
        Ok(match self.big_endian {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        })
    }

    fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.bytes()?;
        Ok(match self.big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    /// A directory's entries, and where the next one is; 0 after the last.
    fn directory(&mut self, at: u32) -> io::Result<(Vec<Entry>, u32)> {
        self.file.seek(SeekFrom::Start(at.into()))?;
        let entries = (0..self.u16()?)
            .map(|_| {
                let (tag, _kind, count) = (self.u16()?, self.u16()?, self.u32()?);
                let value = self.u32()?;
                Ok(Entry { tag, count, value })
            })
            .collect::<io::Result<_>>()?;
        Ok((entries, self.u32()?))
    }

    fn data(&mut self, at: u32, count: u32) -> io::Result<Option<Vec<u8>>> {
        if count > MOST_BYTES {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(at.into()))?;
        let mut data = Vec::new();
        self.file.by_ref().take(count.into()).read_to_end(&mut data)?;
        Ok((data.len() == count as usize).then_some(data))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Directories of (tag, type, count, value) one after another, and a profile at byte 200.
    fn file(big_endian: bool, directories: &[&[(u16, u16, u32, u32)]]) -> Vec<u8> {
        let short = |n: u16| {
            if big_endian {
                n.to_be_bytes()
            } else {
                n.to_le_bytes()
            }
        };
        let long = |n: u32| {
            if big_endian {
                n.to_be_bytes()
            } else {
                n.to_le_bytes()
            }
        };
        let mut bytes = if big_endian {
            b"MM".to_vec()
        } else {
            b"II".to_vec()
        };
        bytes.extend(short(42));
        bytes.extend(long(8));
        for (i, entries) in directories.iter().enumerate() {
            bytes.extend(short(entries.len() as u16));
            for (tag, kind, count, value) in *entries {
                bytes.extend([short(*tag), short(*kind)].concat());
                bytes.extend([long(*count), long(*value)].concat());
            }
            let next = bytes.len() as u32 + 4;
            bytes.extend(long(if i + 1 < directories.len() { next } else { 0 }));
        }
        bytes.resize(200, 0);
        bytes.extend(b"profile");
        bytes
    }

    #[test]
    fn the_profile_and_more_pages_are_found() {
        let profile = (ICC_PROFILE, 7, 7, 200);
        for big_endian in [false, true] {
            let read = |directories: &[&[(u16, u16, u32, u32)]]| {
                tags(Cursor::new(file(big_endian, directories))).unwrap()
            };
            let one = read(&[&[profile]]);
            assert_eq!(one.icc_profile.as_deref(), Some(&b"profile"[..]));
            assert!(!one.has_more_pages);
            assert_eq!(read(&[&[(256, 3, 1, 9)]]), Tags::default());
            let small = (NEW_SUBFILE_TYPE, 4, 1, 1);
            assert!(!read(&[&[profile], &[small]]).has_more_pages, "a thumbnail");
            assert!(read(&[&[profile], &[(256, 3, 1, 9)]]).has_more_pages);
        }
    }

    #[test]
    fn a_broken_file_is_an_error_or_has_none() {
        let whole = file(false, &[&[(ICC_PROFILE, 7, 7, 200)]]);
        for length in 0..whole.len() {
            let _ = tags(Cursor::new(&whole[..length]));
        }
        let lies = file(false, &[&[(ICC_PROFILE, 7, u32::MAX, 200)]]);
        assert_eq!(tags(Cursor::new(lies)).unwrap().icc_profile, None);
        let mut circle = whole.clone();
        // Its only directory comes after itself.
        circle[8 + 2 + 12] = 8;
        assert!(tags(Cursor::new(circle)).unwrap().has_more_pages);
    }
}
