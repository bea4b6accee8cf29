//! Decodes pictures for `scripts/corpus`: reads paths from standard input, writes the pixels of the nth to
//! FOLDER/n.rgba, and prints a line for each: `ok WIDTHxHEIGHT NOTES` or `err - MESSAGE`, separated by tabs.
//!
//! With `--mutate N` instead, it decodes N damaged copies of them and prints how many were decoded, were refused,
//! crashed a decoder, or took longer than two seconds.

use std::{
    env, fs,
    io::{self, BufRead},
    path::PathBuf,
    time::{Duration, Instant},
};

use acetate::image::{self, DecodeLimits};

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let paths: Vec<String> = io::stdin().lock().lines().collect::<Result<_, _>>()?;
    match args.as_slice() {
        [flag, count] if flag == "--mutate" => mutate(&paths, count.parse().map_err(io::Error::other)?),
        [folder] => decode(&paths, &PathBuf::from(folder)),
        _ => Err(io::Error::other("usage: decode FOLDER, or decode --mutate N; paths on standard input")),
    }
}

fn decode(paths: &[String], folder: &std::path::Path) -> io::Result<()> {
    for (index, path) in paths.iter().enumerate() {
        match image::decode("it", &fs::read(path)?, &DecodeLimits::default()) {
            Ok(decoded) => {
                let (width, height) = decoded.pixels.dimensions();
                fs::write(folder.join(format!("{index}.rgba")), decoded.pixels.as_raw())?;
                println!("ok\t{width}x{height}\t{}", decoded.notes.join(" | "));
            }
            Err(error) => println!("err\t-\t{}", error.to_string().replace(['\n', '\t'], " ")),
        }
    }
    Ok(())
}

fn mutate(paths: &[String], count: usize) -> io::Result<()> {
    let mut files = Vec::new();
    for path in paths {
        let bytes = fs::read(path)?;
        if !bytes.is_empty() && bytes.len() < 200_000 {
            files.push(bytes);
        }
    }
    if files.is_empty() {
        return Err(io::Error::other("no files of less than 200 kB"));
    }
    let limits = DecodeLimits {
        max_width: 4096,
        max_height: 4096,
        max_pixels: 4 << 20,
        max_bytes: 4 << 20,
        max_memory: 256 << 20,
    };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let (mut decoded, mut refused, mut crashed, mut slow) = (0, 0, 0, 0);
    for _ in 0..count {
        let mut bytes = files[random(files.len())].clone();
        for _ in 0..=random(8) {
            // Half of the changes hit the headers.
            let reach = if random(2) == 0 { bytes.len() } else { bytes.len().min(400) };
            let at = random(reach);
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes[at] = [0, 255, 127, 128][random(4)],
                3 => bytes[at] = bytes[at].wrapping_add(1),
                _ if bytes.len() > 64 => drop(bytes.drain(at..(at + random(64)).min(bytes.len()))),
                _ => {}
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        let start = Instant::now();
        match image::decode("it", &bytes, &limits) {
            Ok(_) => decoded += 1,
            Err(error) if error.to_string().contains("crashes") => crashed += 1,
            Err(_) => refused += 1,
        }
        slow += usize::from(start.elapsed() > Duration::from_secs(2));
    }
    println!("{count} mutations: {decoded} decoded, {refused} refused, {crashed} crashed a decoder, {slow} were slow");
    Ok(())
}
