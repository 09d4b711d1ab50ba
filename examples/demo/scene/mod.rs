//! The world in front of the camera: a small-town street that holds what deblurring is judged by: lettering at many sizes,
//! masonry, foliage, fine lines, and the faces of objects near and far.

mod charts;
mod cinema;
mod facades;
mod nature;
mod props;
mod shops;
mod van;

use crate::draw::{Canvas, Rgb, Shape, texture};

pub use van::van;

/// Size of the world in pixels.
pub const WORLD: (usize, usize) = (2560, 1100);
/// Where walls meet the pavement, and the pavement the street.
const GROUND: f32 = 830.0;
const KERB: f32 = 884.0;

/// Points of the world worth a close look: the optician's window, the grocer's stall, the cinema's posters.
pub const LANDMARKS: [(f32, f32); 3] = [(285.0, 665.0), (905.0, 735.0), (1730.0, 655.0)];

/// Paints the street without the van, in linear light.
pub fn street() -> Canvas {
    let mut world = Canvas::new(WORLD.0, WORLD.1);
    nature::sky(&mut world);
    nature::distance(&mut world);
    ground(&mut world);
    facades::brick_house(&mut world);
    facades::plaster_house(&mut world);
    facades::cinema(&mut world);
    facades::blue_house(&mut world);
    shops::optician(&mut world);
    shops::grocer(&mut world);
    cinema::front(&mut world);
    shops::toy_shop(&mut world);
    nature::tree(&mut world, (1352.0, KERB - 10.0));
    props::bunting(&mut world, (1228.0, 330.0), (1492.0, 300.0), 60.0);
    props::bicycle(&mut world, (1188.0, KERB - 18.0));
    props::lamp(&mut world, (648.0, KERB - 6.0));
    props::lamp(&mut world, (2086.0, KERB - 6.0));
    world
}

fn ground(world: &mut Canvas) {
    let (width, height) = (WORLD.0 as f32, WORLD.1 as f32);
    world.fill(&Shape::rect(0.0, KERB, width, height - KERB), |x, y| {
        let wet = texture::fbm(x * 0.004, y * 0.02, 4, 15);
        texture::cobbles(x, y - KERB) * (0.75 + 0.4 * wet)
    });
    world.fill(
        &Shape::rect(0.0, GROUND - 4.0, width, KERB - GROUND + 4.0),
        |x, y| {
            let slab = texture::ashlar(
                x + (y - GROUND) * 0.4,
                (y - GROUND) * 1.6 + 9.0,
                Rgb::hex(0xb5a896),
            );
            slab * (0.85 + 0.005 * (y - GROUND))
        },
    );
    world.fill(&Shape::rect(0.0, KERB - 2.0, width, 13.0), |x, y| {
        let worn = texture::fbm(x * 0.08, y * 0.2, 4, 16);
        Rgb::hex(0xc9bda9) * ((0.5 + 0.5 * worn) * if y < KERB + 3.0 { 1.15 } else { 0.6 })
    });
    // The houses throw their shadow on the pavement.
    world.shadow(&Shape::rect(-40.0, GROUND - 10.0, 1270.0, 26.0), 14.0, 0.55);
    world.shadow(&Shape::rect(1470.0, GROUND - 10.0, 1140.0, 26.0), 14.0, 0.55);
}
