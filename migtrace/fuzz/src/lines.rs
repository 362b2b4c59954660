//! Changes JSON so that it stays JSON: the lines of an event log, and the numbers, words and texts in a value.

use super::statuses::STATUSES;

/// Numbers near which arithmetic goes wrong.
const EDGES: [u64; 6] = [0, 1, i64::MAX.cast_unsigned(), 1 << 63, u64::MAX - 1, u64::MAX];
/// Groups of values that can replace each other.
const WORDS: [&[&str]; 4] = [
    &STATUSES,
    &["ram", "multifd", "nbd", "postcopy_preempt", "tls", "unknown"],
    &["STOP", "RESUME", "MIGRATION", "MIGRATION_PASS", "BLOCK_JOB_READY", "BLOCK_JOB_ERROR"],
    &["true", "false", "null"],
];

/// Texts that an attacker may put into the name of a VM or host, or into an error.
const TEXTS: [&str; 8] = [
    "",
    " ",
    "\\u001b[31mred",
    "\u{202e}gnp.exe",
    "a\\nb\u{2028}c",
    "仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン仮想マシン",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "\u{2764}\u{fe0f}e\u{301}\u{200d}",
];

/// The log with one to four of these changes; the same `seed` makes the same.
pub fn mutate(log: &[u8], seed: u32) -> Vec<u8> {
    let mut random = Random(u64::from(seed) | 1 << 40);
    let text = String::from_utf8_lossy(log);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=random.below(4) {
        // Without its first line it is not a log.
        if lines.len() > 1 {
            change(&mut lines, &mut random);
        }
    }
    let mut log = lines.join("\n").into_bytes();
    log.push(b'\n');
    log
}

/// The value with one to four of its numbers, words and texts changed; the same `seed` makes the same.
pub fn mutate_value(json: &[u8], seed: u32) -> Vec<u8> {
    let mut random = Random(u64::from(seed) | 1 << 40);
    let mut text = String::from_utf8_lossy(json).into_owned();
    for _ in 0..=random.below(4) {
        match random.below(3) {
            0 => change_word(&mut text, &mut random),
            1 => change_text(&mut text, &mut random),
            _ => change_number(&mut text, &mut random),
        }
    }
    text.into_bytes()
}

fn change(lines: &mut Vec<String>, random: &mut Random) {
    let (here, there) = (1 + random.below(lines.len() - 1), 1 + random.below(lines.len() - 1));
    match random.below(16) {
        0 if lines.len() > 2 => drop(lines.remove(here)),
        1 => lines.insert(there, lines[here].clone()),
        2 => lines.swap(here, there),
        // The log ends early.
        3 if lines.len() > 4 => lines.truncate(1 + here.max(lines.len() / 2)),
        4 | 5 => change_word(&mut lines[here], random),
        6 => change_text(&mut lines[here], random),
        _ => change_number(&mut lines[here], random),
    }
}

fn change_word(line: &mut String, random: &mut Random) {
    let found: Vec<_> = WORDS
        .iter()
        .flat_map(|words| words.iter().map(move |word| (*words, *word)))
        .flat_map(|(words, word)| line.match_indices(word).map(move |(at, _)| (words, word, at)))
        .collect();
    if found.is_empty() {
        return;
    }
    let (words, word, at) = found[random.below(found.len())];
    line.replace_range(at..at + word.len(), words[random.below(words.len())]);
}

fn change_text(line: &mut String, random: &mut Random) {
    let found: Vec<_> = line.match_indices(":\"").map(|(at, opening)| at + opening.len()).collect();
    if found.is_empty() {
        return;
    }
    let from = found[random.below(found.len())];
    let Some(length) = line[from..].find('"') else { return };
    line.replace_range(from..from + length, TEXTS[random.below(TEXTS.len())]);
}

fn change_number(line: &mut String, random: &mut Random) {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in line.match_indices(|c: char| c.is_ascii_digit()) {
        match found.last_mut() {
            Some(number) if number.end == at => number.end += 1,
            _ => found.push(at..at + 1),
        }
    }
    if found.is_empty() {
        return;
    }
    let number = found[random.below(found.len())].clone();
    let Ok(value) = line[number.clone()].parse::<u64>() else { return };
    let distance = 1u64 << random.below(40);
    let new = match random.below(8) {
        0 => EDGES[random.below(EDGES.len())],
        1..=3 => value.saturating_add(distance),
        4..=6 => value.saturating_sub(distance),
        _ => value / 2,
    };
    line.replace_range(number, &new.to_string());
}

/// A small random generator (xorshift): the engine gives the seed, and needs the same change for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end.max(1)
    }
}
