//! What becomes of each stream of a file in a given container.

use anyhow::{Result, anyhow, bail};
use gst::prelude::*;

use super::container::Container;
use super::element;
use super::probe::{Kind, Probe, Stream};

/// Fields that a parser in front of the muxer can change.
const PARSER_FIELDS: &[&str] = &[
    "alignment",
    "codec_data",
    "framed",
    "level",
    "parsed",
    "profile",
    "stream-format",
    "tier",
];

#[derive(Debug)]
pub(crate) enum Action {
    Deblur,
    /// Into the muxer without decoding.
    Copy,
    /// Text with Pango's markup, which muxers do not take, becomes plain text.
    CopyText,
    /// Sound that the container does not take, through this encoder.
    Encode(&'static str),
}

#[derive(Debug)]
pub(crate) struct Branch {
    pub stream_id: String,
    pub action: Action,
    pub caps: gst::Caps,
    /// Of the muxer's sink pad.
    pub template: gst::PadTemplate,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub branches: Vec<Branch>,
    /// The video is to be turned for display. Muxers do not write that down, so the pixels turn.
    pub upright: bool,
    /// What the user should know: streams that are encoded again or left out.
    pub notes: Vec<String>,
}

impl Plan {
    /// # Errors
    /// The file has no video, or the container's muxer is not installed.
    pub fn new(probe: &Probe, container: Container) -> Result<Self> {
        let muxer = element::make(container.muxer())?;
        let templates: Vec<_> = muxer
            .pad_template_list()
            .into_iter()
            .filter(|template| template.direction() == gst::PadDirection::Sink)
            .collect();
        let mut plan = Self {
            branches: Vec::new(),
            upright: false,
            notes: Vec::new(),
        };
        let mut has_video = false;
        for stream in &probe.streams {
            if stream.kind == Kind::Video && !has_video {
                has_video = true;
                plan.upright = stream.orientation.is_some();
                let template = templates
                    .iter()
                    .find(|template| template.name_template().starts_with("video"))
                    .ok_or_else(|| anyhow!("{} takes no video", container.muxer()))?;
                plan.add(stream, Action::Deblur, template);
            } else {
                plan.add_other(stream, container, &templates);
            }
        }
        if !has_video {
            bail!("it has no video stream");
        }
        Ok(plan)
    }

    fn add(&mut self, stream: &Stream, action: Action, template: &gst::PadTemplate) {
        let (stream_id, caps) = (stream.id.clone(), stream.caps.clone());
        self.branches.push(Branch {
            stream_id,
            action,
            caps,
            template: template.clone(),
        });
    }

    fn add_other(&mut self, stream: &Stream, container: Container, templates: &[gst::PadTemplate]) {
        let name = container.name();
        let format = describe(&stream.caps);
        if let Some(template) = accepting(templates, &stream.caps) {
            if stream.kind == Kind::Video {
                self.notes.push(format!(
                    "only the first video stream is deblurred; another ({format}) is kept as it is"
                ));
            }
            return self.add(stream, Action::Copy, template);
        }
        match stream.kind {
            Kind::Audio => {
                let encoder = element::first_installed(container.audio_encoders());
                let output = encoder
                    .and_then(gst::ElementFactory::find)
                    .map(|factory| encoder_caps(&factory));
                let template = output.and_then(|caps| accepting(templates, &caps));
                if let (Some(encoder), Some(template)) = (encoder, template) {
                    self.notes.push(format!(
                        "{name} takes no {format} sound; it is encoded again by {encoder}"
                    ));
                    return self.add(stream, Action::Encode(encoder), template);
                }
            }
            Kind::Subtitle if is_markup(&stream.caps) => {
                let plain = gst::Caps::builder("text/x-raw").field("format", "utf8").build();
                if let Some(template) = accepting(templates, &plain) {
                    return self.add(stream, Action::CopyText, template);
                }
            }
            _ => {}
        }
        let what = match stream.kind {
            Kind::Video => "a second video stream",
            Kind::Audio => "a sound stream",
            Kind::Subtitle => "a subtitle stream",
            Kind::Other => "a data stream",
        };
        self.notes
            .push(format!("{name} cannot hold {what} ({format}); it is left out"));
    }
}

fn is_markup(caps: &gst::Caps) -> bool {
    caps.structure(0)
        .is_some_and(|text| text.name() == "text/x-raw" && text.get::<&str>("format") == Ok("pango-markup"))
}

/// The pad template of a muxer that takes a stream, once a parser has brought it into shape.
fn accepting<'a>(templates: &'a [gst::PadTemplate], caps: &gst::Caps) -> Option<&'a gst::PadTemplate> {
    let mut loose = gst::Caps::new_empty();
    {
        let loose = loose.get_mut().expect("new caps have one owner");
        for structure in caps.iter() {
            let mut structure = structure.to_owned();
            // Raw sound passes a converter instead, which changes its format without loss where it can.
            let raw = structure.name() == "audio/x-raw";
            structure.remove_fields(PARSER_FIELDS.iter().copied().chain(raw.then_some("format")));
            loose.append_structure(structure);
        }
    }
    templates
        .iter()
        .find(|template| template.caps().can_intersect(&loose))
}

fn encoder_caps(factory: &gst::ElementFactory) -> gst::Caps {
    factory
        .static_pad_templates()
        .iter()
        .find(|template| template.direction() == gst::PadDirection::Src)
        .map_or_else(gst::Caps::new_empty, |template| template.caps())
}

/// A name for a format: "audio/x-vorbis" is "vorbis", "audio/mpeg, mpegversion=4" is "AAC".
fn describe(caps: &gst::Caps) -> String {
    let Some(structure) = caps.structure(0) else {
        return "unknown".to_owned();
    };
    let name = structure.name().as_str();
    match (
        name,
        structure.get::<i32>("mpegversion"),
        structure.get::<i32>("layer"),
    ) {
        ("audio/mpeg", Ok(2 | 4), _) => "AAC".to_owned(),
        ("audio/mpeg", Ok(1), Ok(layer)) => format!("MP{layer}"),
        ("audio/x-raw", ..) => "PCM".to_owned(),
        ("text/x-raw", ..) => "plain text".to_owned(),
        _ => name
            .rsplit('/')
            .next()
            .unwrap_or(name)
            .trim_start_matches("x-")
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn decide(container: Container, streams: &[(Kind, &str)]) -> Result<Plan> {
        gst::init().unwrap();
        let streams = streams
            .iter()
            .enumerate()
            .map(|(index, (kind, caps))| Stream {
                id: index.to_string(),
                kind: *kind,
                caps: gst::Caps::from_str(caps).unwrap(),
                orientation: None,
            })
            .collect();
        Plan::new(
            &Probe {
                streams,
                duration: None,
            },
            container,
        )
    }

    const VIDEO: (Kind, &str) = (Kind::Video, "video/x-h264,stream-format=byte-stream");
    const AAC: (Kind, &str) = (Kind::Audio, "audio/mpeg,mpegversion=4,stream-format=adts");
    const TEXT: (Kind, &str) = (Kind::Subtitle, "text/x-raw,format=pango-markup");

    #[test]
    fn sound_is_copied_where_the_container_takes_it() {
        for container in [
            Container::Mp4,
            Container::QuickTime,
            Container::Matroska,
            Container::Avi,
        ] {
            let plan = decide(container, &[AAC, VIDEO]).unwrap();
            assert!(matches!(plan.branches[0].action, Action::Copy), "{container:?}");
            assert!(matches!(plan.branches[1].action, Action::Deblur), "{container:?}");
            assert!(plan.notes.is_empty(), "{container:?}");
        }
    }

    #[test]
    fn other_sound_is_encoded_again_and_the_user_told() {
        let plan = decide(Container::WebM, &[VIDEO, AAC]).unwrap();
        assert!(matches!(
            plan.branches[1].action,
            Action::Encode("opusenc" | "vorbisenc")
        ));
        assert!(plan.notes[0].contains("AAC"), "{:?}", plan.notes);
    }

    #[test]
    fn subtitles_become_plain_text_or_are_named() {
        let plan = decide(Container::Matroska, &[VIDEO, TEXT]).unwrap();
        assert!(matches!(plan.branches[1].action, Action::CopyText));
        let plan = decide(Container::Avi, &[VIDEO, TEXT]).unwrap();
        assert_eq!(plan.branches.len(), 1);
        assert!(plan.notes[0].contains("left out"), "{:?}", plan.notes);
    }

    #[test]
    fn sound_alone_is_an_error() {
        assert!(
            decide(Container::Mp4, &[AAC])
                .unwrap_err()
                .to_string()
                .contains("no video")
        );
    }
}
