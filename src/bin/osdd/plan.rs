//! From the paths on the command line to a list of jobs, with everything checked that can be checked before work begins.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::ImageFormat;

use crate::Usage;
use crate::args::DeblurArgs;
use crate::picture;
use crate::video::Container;

/// Extensions by which a file among others in a folder is taken for a video.
const VIDEO_EXTENSIONS: &[&str] = &[
    "3gp", "avi", "flv", "m2ts", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv",
    "ts", "webm", "wmv", "y4m",
];

/// One file to deblur.
#[derive(Debug)]
pub(crate) struct Job {
    pub input: PathBuf,
    pub output: PathBuf,
    pub target: Target,
}

/// What the output is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Image(ImageFormat),
    Video(Container),
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub jobs: Vec<Job>,
    /// Inputs whose output is there already, under `--resume`.
    pub finished: usize,
    /// Files in folders that are neither images nor videos.
    pub ignored: Vec<PathBuf>,
    /// Folders in folders.
    pub folders: Vec<PathBuf>,
    /// Files in folders that cannot be written as what their name says.
    pub rejected: Vec<(PathBuf, anyhow::Error)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Media {
    /// With the format that the content has, where it is a known one.
    Image(Option<ImageFormat>),
    Video,
    Unknown,
}

impl Plan {
    /// # Errors
    /// [`Usage`] when inputs and output do not fit together; else an input is missing, an output exists or is an input.
    pub fn new(args: &DeblurArgs) -> Result<Self> {
        let piped = |path: &Path| path.as_os_str() == "-";
        if piped(&args.output) || args.inputs.iter().any(|input| piped(input)) {
            bail!(Usage(
                "osdd reads and writes files, not pipes; for those there is gst-launch-1.0".into()
            ));
        }
        let mut plan = Self::default();
        let mut candidates = Vec::new();
        let separated = args
            .output
            .as_os_str()
            .to_string_lossy()
            .ends_with(std::path::MAIN_SEPARATOR);
        let into_folder = args.inputs.len() > 1 || args.output.is_dir() || separated;
        for input in &args.inputs {
            let metadata = fs::metadata(input).with_context(|| format!("cannot read {}", input.display()))?;
            if metadata.is_dir() {
                plan.add_folder(input, &args.output, &mut candidates)?;
            } else {
                let media = identify(input)?;
                let output = match input.file_name() {
                    Some(name) if into_folder => args.output.join(writable(Path::new(name), media)),
                    _ => args.output.clone(),
                };
                let target = target(input, &output, media, into_folder).map_err(Usage)?;
                candidates.push(Job {
                    input: input.clone(),
                    output,
                    target,
                });
            }
        }
        let makes_folder = into_folder || args.inputs.iter().any(|input| input.is_dir());
        let named_as_file = ImageFormat::from_path(&args.output).is_ok()
            || VIDEO_EXTENSIONS.contains(&extension(&args.output).as_str());
        let is_folder = separated || args.output.is_dir();
        if makes_folder && (args.output.is_file() || named_as_file && !is_folder) {
            bail!(Usage(format!(
                "{} names a file, and these inputs need a folder to go to",
                args.output.display()
            )));
        }
        plan.admit(candidates, args)?;
        Ok(plan)
    }

    fn add_folder(&mut self, folder: &Path, output: &Path, candidates: &mut Vec<Job>) -> Result<()> {
        let cannot_read = || format!("cannot read {}", folder.display());
        let mut entries = fs::read_dir(folder)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .with_context(cannot_read)?;
        entries.sort();
        let mut any = false;
        for input in entries {
            let Some(name) = input
                .file_name()
                .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
            else {
                continue;
            };
            if input.is_dir() {
                self.folders.push(input);
                continue;
            }
            match identify(&input) {
                Ok(Media::Unknown) => self.ignored.push(input),
                Ok(media) => {
                    any = true;
                    let output = output.join(writable(Path::new(name), media));
                    match target(&input, &output, media, true) {
                        Ok(target) => candidates.push(Job {
                            input,
                            output,
                            target,
                        }),
                        Err(reason) => self.rejected.push((input, anyhow::Error::msg(reason))),
                    }
                }
                Err(error) => self.rejected.push((input, error)),
            }
        }
        if !any && self.rejected.is_empty() {
            bail!("{} holds neither images nor videos", folder.display());
        }
        Ok(())
    }

    /// Compares the outputs with what is on the disk and with each other.
    fn admit(&mut self, candidates: Vec<Job>, args: &DeblurArgs) -> Result<()> {
        let inputs: HashSet<PathBuf> = candidates
            .iter()
            .filter_map(|job| fs::canonicalize(&job.input).ok())
            .collect();
        let mut outputs = HashSet::new();
        let mut existing = Vec::new();
        for job in candidates {
            if let (Target::Video(container), Some(quality)) = (job.target, args.quality) {
                let (codec, worst) = container.quality_scale();
                if quality > worst {
                    bail!(Usage(format!(
                        "--quality {quality} is off the scale of {codec}, 0 to {worst}"
                    )));
                }
            }
            if !outputs.insert(job.output.clone()) {
                bail!(Usage(format!(
                    "two inputs would be written to {}",
                    job.output.display()
                )));
            }
            if let Ok(there) = fs::canonicalize(&job.output) {
                if inputs.contains(&there) {
                    bail!(
                        "{} is an input, and inputs are never overwritten; choose another output",
                        job.output.display()
                    );
                }
                if there.is_dir() {
                    bail!("{} is a folder", job.output.display());
                }
                if args.resume {
                    self.finished += 1;
                    continue;
                }
                if !args.force {
                    existing.push(job.output.clone());
                }
            }
            self.jobs.push(job);
        }
        match existing.as_slice() {
            [] => Ok(()),
            [path] => bail!(
                "{} exists; --force replaces it, --resume skips it",
                path.display()
            ),
            [path, rest @ ..] => bail!(
                "{} and {} other outputs exist; --force replaces them, --resume skips them",
                path.display(),
                rest.len()
            ),
        }
    }
}

/// By content first, then by name: a damaged photo shall be reported as a damaged photo.
fn identify(path: &Path) -> Result<Media> {
    let mut head = Vec::new();
    let read = |head: &mut Vec<u8>| {
        // Opening a pipe waits for who writes to it.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(());
        }
        File::open(path)?.take(64).read_to_end(head).map(|_| ())
    };
    read(&mut head).with_context(|| format!("cannot read {}", path.display()))?;
    let extension = extension(path);
    let named_video = VIDEO_EXTENSIONS.contains(&extension.as_str());
    Ok(match image::guess_format(&head) {
        Ok(format) if picture::can_read(format) && !named_video => Media::Image(Some(format)),
        _ if named_video => Media::Video,
        _ if ImageFormat::from_path(path).is_ok_and(picture::can_read) => Media::Image(None),
        _ => Media::Unknown,
    })
}

/// The name of an output beside others: the input's, with .mp4 behind it where videos are not written as what it says.
fn writable(name: &Path, media: Media) -> PathBuf {
    let mut name = name.as_os_str().to_owned();
    if media == Media::Video && Container::for_extension(&extension(name.as_ref())).is_none() {
        name.push(".mp4");
    }
    name.into()
}

/// What `output` shall be, given what `input` is; or why that cannot be.
fn target(input: &Path, output: &Path, media: Media, same_name: bool) -> Result<Target, String> {
    let extension = extension(output);
    let image = ImageFormat::from_extension(&extension).filter(|format| picture::can_write(*format));
    let container = Container::for_extension(&extension);
    match (media, image, container) {
        (Media::Image(_), Some(format), _) => Ok(Target::Image(format)),
        (Media::Image(Some(format)), None, None) if same_name => Ok(Target::Image(format)),
        (Media::Image(_), None, Some(_)) => Err(format!(
            "{} is an image and {} names a video",
            input.display(),
            output.display()
        )),
        (Media::Image(_), None, None) => Err(format!(
            "cannot write {}: images are written as png, jpg, webp, tiff or bmp",
            output.display()
        )),
        (Media::Video | Media::Unknown, _, Some(container)) => Ok(Target::Video(container)),
        (Media::Video, Some(_), None) => Err(format!(
            "{} is a video and {} names an image",
            input.display(),
            output.display()
        )),
        (Media::Unknown, Some(_), None) => {
            Err(format!("{} is not an image that osdd can read", input.display()))
        }
        (Media::Video | Media::Unknown, None, None) => Err(format!(
            "cannot write {}: videos are written as mp4, m4v, mov, mkv, webm or avi",
            output.display()
        )),
    }
}

fn extension(path: &Path) -> String {
    path.extension()
        .and_then(OsStr::to_str)
        .unwrap_or_default()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_name_decides_what_is_written() {
        let decide = |media, output: &str| target("in".as_ref(), output.as_ref(), media, false);
        let png = Media::Image(Some(ImageFormat::Png));
        assert!(matches!(
            decide(png, "a.JPG"),
            Ok(Target::Image(ImageFormat::Jpeg))
        ));
        assert!(matches!(decide(Media::Video, "a.mkv"), Ok(Target::Video(_))));
        assert!(matches!(decide(Media::Unknown, "a.mp4"), Ok(Target::Video(_))));
        assert!(decide(png, "a.mp4").unwrap_err().contains("names a video"));
        assert!(
            decide(Media::Video, "a.png")
                .unwrap_err()
                .contains("names an image")
        );
        assert!(decide(png, "a.xyz").unwrap_err().contains("png, jpg"));
        assert!(decide(Media::Video, "a").unwrap_err().contains("mp4"));
    }

    #[test]
    fn content_wins_over_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            identify(&path).unwrap()
        };
        let png = b"\x89PNG\r\n\x1a\n";
        assert_eq!(write("a.jpg", png), Media::Image(Some(ImageFormat::Png)));
        assert_eq!(write("b.png", b"nonsense"), Media::Image(None));
        assert_eq!(write("c.mp4", b"nonsense"), Media::Video);
        assert_eq!(write("d.mjpeg", b"\xff\xd8\xff"), Media::Video);
        assert_eq!(write("e.txt", b"nonsense"), Media::Unknown);
    }
}
