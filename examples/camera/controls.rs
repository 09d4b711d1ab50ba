//! The controls at the upper edge of the picture (names are at the lower one where pictures are compared): a slider for gamma, a switch to compare, a button to record.

/// Where they are, in pixels of the video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Controls {
    width: f64,
    height: f64,
}

/// What they say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    pub gamma: f64,
    pub comparing: bool,
    pub recording: bool,
}

/// What is at a place in the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// The slider, at this gamma.
    Gamma(f64),
    Compare,
    Record,
    /// Neither, so far from the left in 0..=1.
    Picture(f64),
}

/// From left to right, in parts of the width: the slider's ends, the switch's, the button's.
const SLIDER: [f64; 2] = [0.22, 0.52];
const SWITCH: [f64; 2] = [0.58, 0.78];
const BUTTON: [f64; 2] = [0.80, 0.98];

impl Controls {
    pub fn of(caps: &gst::Caps) -> Option<Self> {
        let caps = caps.structure(0)?;
        let length = |name| caps.get::<i32>(name).ok().map(f64::from);
        Some(Controls {
            width: length("width")?,
            height: length("height")?,
        })
    }

    /// Their height.
    fn strip(self) -> f64 {
        (self.width / 14.0).clamp(16.0, 48.0).min(self.height)
    }

    fn gamma_at(self, x: f64) -> f64 {
        let gamma = (x / self.width - SLIDER[0]) / (SLIDER[1] - SLIDER[0]);
        // In hundredths, as the label says.
        (gamma.clamp(0.0, 1.0) * 100.0).round() / 100.0
    }

    pub fn place(self, x: f64, y: f64) -> Place {
        let part = x / self.width;
        let within = |[start, end]: [f64; 2]| (start..=end).contains(&part);
        if y > self.strip() {
            Place::Picture(part.clamp(0.0, 1.0))
        } else if within(SWITCH) {
            Place::Compare
        } else if within(BUTTON) {
            Place::Record
        } else {
            Place::Gamma(self.gamma_at(x))
        }
    }

    /// What the mouse sets that was pressed at a place and is now at `x`; buttons do not follow it.
    pub fn drag(self, pressed: Place, x: f64) -> Option<Place> {
        match pressed {
            Place::Gamma(_) => Some(Place::Gamma(self.gamma_at(x))),
            Place::Picture(_) => Some(Place::Picture((x / self.width).clamp(0.0, 1.0))),
            Place::Compare | Place::Record => None,
        }
    }

    /// The controls as SVG of the picture's size.
    pub fn draw(self, shown: Shown) -> String {
        let Controls { width, height } = self;
        let strip = self.strip();
        let middle = strip / 2.0;
        let x = |part: f64| part * width;
        let [start, end] = SLIDER.map(x);
        let knob = start + shown.gamma * (end - start);
        let font = strip * 0.42;
        let baseline = middle + font * 0.35;
        let button = |[start, end]: [f64; 2], fill: &str, text: &str| {
            format!(
                r#"<rect x="{}" y="{}" width="{}" height="{}" rx="{}" fill="{fill}"/><text x="{}" y="{baseline}" text-anchor="middle">{text}</text>"#,
                x(start),
                strip * 0.14,
                x(end - start),
                strip * 0.72,
                strip * 0.15,
                x((start + end) / 2.0),
            )
        };
        let compare = button(
            SWITCH,
            if shown.comparing { "#2f7d4f" } else { "#555" },
            "compare",
        );
        let (fill, text) = if shown.recording {
            ("#b3261e", "stop")
        } else {
            ("#555", "record")
        };
        let record = button(BUTTON, fill, text);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="{font}" fill="#fff">
<rect width="{width}" height="{strip}" fill="#000" fill-opacity="0.55"/>
<text x="{}" y="{baseline}">gamma {:.2}</text>
<rect x="{start}" y="{}" width="{}" height="{}" rx="2" fill="#999"/>
<rect x="{start}" y="{}" width="{}" height="{}" rx="2" fill="#6fb1ff"/>
<circle cx="{knob}" cy="{middle}" r="{}"/>
{compare}{record}
</svg>"##,
            x(0.02),
            shown.gamma,
            middle - strip * 0.06,
            end - start,
            strip * 0.12,
            middle - strip * 0.06,
            knob - start,
            strip * 0.12,
            strip * 0.26,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLS: Controls = Controls {
        width: 640.0,
        height: 480.0,
    };

    #[test]
    fn the_mouse_finds_what_is_drawn() {
        let high = 5.0;
        assert_eq!(CONTROLS.place(160.0, 100.0), Place::Picture(0.25));
        assert_eq!(CONTROLS.place(0.37 * 640.0, high), Place::Gamma(0.5));
        assert_eq!(CONTROLS.place(5.0, high), Place::Gamma(0.0));
        assert_eq!(CONTROLS.place(0.68 * 640.0, high), Place::Compare);
        assert_eq!(CONTROLS.place(0.9 * 640.0, high), Place::Record);
        // Beyond its end, and with the mouse anywhere below it.
        assert_eq!(CONTROLS.drag(Place::Gamma(0.5), 600.0), Some(Place::Gamma(1.0)));
        assert_eq!(
            CONTROLS.drag(Place::Picture(0.5), -3.0),
            Some(Place::Picture(0.0))
        );
        assert_eq!(CONTROLS.drag(Place::Record, 100.0), None);
    }

    #[test]
    fn the_drawing_follows_what_is_shown() {
        let draw = |gamma, comparing, recording| {
            CONTROLS.draw(Shown {
                gamma,
                comparing,
                recording,
            })
        };
        let idle = draw(0.25, false, false);
        assert!(idle.contains("gamma 0.25") && idle.contains(">record<"));
        assert!(draw(0.25, false, true).contains(">stop<"));
        assert_ne!(idle, draw(0.25, true, false));
    }
}
