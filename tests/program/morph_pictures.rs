//! `morph`: pictures of every kind and what stands for one, taken as they look or refused in one line.

use refrain_media::{Picture, save_picture};

use crate::morphing::{frames, morph, pictures};
use crate::support::Folder;

#[test]
fn bad_pictures_and_places_are_one_line() {
    let folder = Folder::new();
    pictures(&folder);
    folder.write("no.png", "hello");
    save_picture(&folder.path("dot.png"), &Picture::filled(1, 1, [9; 3])).unwrap();
    let mut bomb = folder.read("a.png");
    // The header of a picture of 30 000 x 30 000 pixels, with its checksum.
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    folder.write("bomb.png", &bomb);
    let refused = |second: &str, code: i32| morph(&folder, &["a.png", second, "-o", "x"]).refused(code).to_owned();
    assert!(refused("no.png", 2).contains("no.png"));
    assert!(refused("none.png", 2).contains("no such file"));
    assert!(refused("dot.png", 2).contains("1x1 pixels are too few"));
    assert!(refused("bomb.png", 3).contains("30000x30000"));
    let lines = [
        (&["a.png", "b.png", "--frames", "1"][..], "--frames"),
        (&["a.png", "b.png", "--frames", "241"], "at most 240"),
        (&["a.png", "b.png", "c.png", "--seconds", "1", "2", "3"], "--seconds"),
        (&["a.png", "b.png", "-o", "clip.mpg"], "clip.mpg"),
        (&["a.png", "b.png", "-o", "a.png/out"], "a.png"),
        (&["a.png", "b.png", "--inject", "2"], "injection weight"),
        (&["a.png", "b.png", "--inject", "strong"], "expected `auto` or a number"),
        (&["a.png", "b.png", "--inject-parts", "everything"], "inject parts"),
        (&["a.png", "b.png", "--anchor-gate", "1.5"], "--anchor-gate"),
        (&["a.png", "b.png", "--inverter", "belm", "--schedule", "even"], "previews"),
        (&["a.png", "b.png", "--inject-schedule", "none.json"], "none.json"),
        (&["a.png", "b.png", "--captioner", "no-such-program"], "no-such-program"),
        (&["a.png", "b.png", "-p", "x"], "1 prompts for 2 pictures"),
        (&["a.png", "b.png", "-W", "17"], "width 17"),
        (&["a.png", "b.png", "--cache-memory", "much"], "--cache-memory"),
        (&["a.png", "b.png", "--inverter", "belm", "--inversion-steps", "9"], "O-BELM"),
    ];
    for (arguments, part) in lines {
        let outcome = morph(&folder, arguments);
        let line = outcome.stderr.trim_end();
        assert!(outcome.code == 2 || outcome.code == 3, "{arguments:?}: {} {line}", outcome.code);
        assert!(line.contains(part) && !line.contains('\n'), "{arguments:?}: {line}");
    }
}

#[test]
fn deep_printed_and_animated_pictures_are_taken_as_they_look() {
    let folder = Folder::new();
    pictures(&folder);
    std::fs::write(folder.path("ink.jpg"), include_bytes!("pictures/cmyk.jpg")).unwrap();
    folder.write("deep.png", deep_png());
    morph(&folder, &["b.png", "a.png", "-o", "moving.gif", "--frames", "3"]).succeeded();
    let morphed = |second: &str, name: &str| {
        let outcome = morph(&folder, &["a.png", second, "-o", name, "--frames", "3"]).succeeded();
        (frames(&folder, name, 3)[2].clone(), outcome.stderr)
    };
    // Cyan 0, magenta 200, yellow 180, key 20 of 255: a red.
    let (ink, _) = morphed("ink.jpg", "ink");
    assert!(ink[0] > 200 && ink[1] < 90 && ink[2] < 110, "{:?}", &ink[..3]);
    let (deep, _) = morphed("deep.png", "deep");
    assert!(deep[0].abs_diff(0x80) <= 1, "{:?}", &deep[..3]);
    let (_, said) = morphed("moving.gif", "first-frame");
    assert!(said.contains("animated") && said.lines().count() == 1, "{said}");
}

/// 16x16 pixels of grey 0x8000 in 16 bits a channel, stored without compression.
fn deep_png() -> Vec<u8> {
    let mut rows = Vec::new();
    for _ in 0..16 {
        rows.push(0);
        rows.extend([0x80, 0].repeat(16));
    }
    let length = rows.len() as u16;
    let mut data = vec![0x78, 1, 1];
    data.extend(length.to_le_bytes());
    data.extend((!length).to_le_bytes());
    data.extend(&rows);
    let sums = rows.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    data.extend((sums.1 << 16 | sums.0).to_be_bytes());
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, body) in [
        (b"IHDR", [&16u32.to_be_bytes()[..], &16u32.to_be_bytes(), &[16, 0, 0, 0, 0]].concat()),
        (b"IDAT", data),
        (b"IEND", Vec::new()),
    ] {
        let named = [&kind[..], &body].concat();
        png.extend((body.len() as u32).to_be_bytes());
        png.extend(&named);
        png.extend(crc32(&named).to_be_bytes());
    }
    png
}

#[test]
#[cfg(unix)]
fn what_may_not_be_read_or_written_is_one_line() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    pictures(&folder);
    let bar = |name: &str| std::fs::set_permissions(folder.path(name), PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::create_dir(folder.path("closed")).unwrap();
    bar("closed");
    bar("b.png");
    if std::fs::read(folder.path("b.png")).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    let line = morph(&folder, &["a.png", "b.png", "-o", "out"]).refused(2).to_owned();
    assert!(line.contains("b.png") && !folder.path("out/frame-000001.png").exists(), "{line}");
    let line = morph(&folder, &["a.png", "c.png", "-o", "closed/out"]).refused(3).to_owned();
    assert!(line.contains("closed"), "{line}");
}

/// Checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    let mut value = u32::MAX;
    for byte in bytes {
        value ^= u32::from(*byte);
        for _ in 0..8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
        }
    }
    !value
}
