//! Compares the numbers of a page, and the places of what is drawn, with the record.

use serde_json::Value;

/// How far a place may be off, as a share of the axis: a pixel of a wide page.
const PLACE: f64 = 0.002;

/// A number of the record. Null, and what the record leaves out, is none.
fn number(records: &Value, pointer: &str) -> Option<f64> {
    records.pointer(pointer).and_then(Value::as_f64)
}

/// The values that an element names, each with its name.
fn values(item: &Value) -> Vec<(String, Option<f64>)> {
    let text = item["values"].as_str().unwrap_or_default();
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.parse().ok())).collect()
}

fn value(values: &[(String, Option<f64>)], name: &str) -> Option<f64> {
    values.iter().find(|(known, _)| known == name).and_then(|(_, value)| *value)
}

/// What can be pointed at: its values, its tip and its place.
pub(crate) fn check_items(items: &Value, records: &Value) -> Vec<String> {
    let items = items.as_array().unwrap();
    assert!(!items.is_empty());
    items.iter().flat_map(|item| check_item(item, records)).collect()
}

fn check_item(item: &Value, records: &Value) -> Vec<String> {
    let [of, tip] = ["of", "tip"].map(|field| item[field].as_str().unwrap_or_default());
    let mut faults = Vec::new();
    if item["shown"] != item["tip"] {
        faults.push(format!("{of}: {} is shown, and {tip:?} is said", item["shown"]));
    }
    if of.is_empty() {
        // Nothing is known: the whole lane.
        let says_so = tip.contains("unknown") || tip.contains("not seen");
        faults.extend((!says_so).then(|| format!("neither a value nor unknown: {tip}")));
        return faults;
    }
    let values = values(item);
    for (name, value) in values.iter().filter(|(name, _)| name != "since") {
        let pointer = format!("{of}/{}", name.replace('.', "/"));
        // An error of 0 is left out of the record.
        let known = number(records, &pointer).or((name == "error_ns").then_some(0.0));
        if known != *value {
            faults.push(format!("{pointer} is {known:?}, and {name} is {value:?}: {tip}"));
        }
    }
    faults.extend(check_place(item, &values, last_packet(of, records)));
    faults.extend(check_tip(tip, &truths(of, &values, item, records)));
    faults
}

/// The last packet of the migration whose sample this is: with it, the last step of its curves ends.
fn last_packet(of: &str, records: &Value) -> Option<f64> {
    let traffic = of.split_once("/samples/")?.0;
    let flows = records.pointer(&format!("{traffic}/flows"))?.as_array()?;
    flows.iter().filter_map(|flow| flow["last_ns"].as_f64()).reduce(f64::max)
}

/// Where it begins and ends.
fn check_place(item: &Value, values: &[(String, Option<f64>)], last_packet: Option<f64>) -> Vec<String> {
    let tip = &item["tip"];
    let pair = |field: &Value| [field[0].as_f64().unwrap(), field[1].as_f64().unwrap()];
    let (axis, place) = (pair(&item["axis"]), pair(&item["place"]));
    let (from, to) = (item["from"].as_f64().unwrap(), item["to"].as_f64().unwrap());
    let share = |at: f64| ((at - axis[0]) / (axis[1] - axis[0])).clamp(0.0, 1.0);
    let is = |name| value(values, name);
    let first = is("start_ns").or(is("first_ns"));
    let ends = [
        (first.map(|first| first.max(axis[0])), from),
        (is("end_ns").or(is("last_ns")), to),
        (is("at_ns").map(|at| last_packet.map_or(at, |last| at.min(last))), to),
        (is("value_ns").map(|length| from + length), to),
        (is("wire_bytes"), to),
    ];
    let mut faults = Vec::new();
    for (known, drawn) in ends {
        if known.is_some_and(|known| (known - drawn).abs() > 1.0) {
            faults.push(format!("{tip} is drawn to {drawn}, and is {known:?}"));
        }
    }
    // What is short can be pointed at beside it, too.
    if place[0] > share(from) + PLACE || place[1] < share(to) - PLACE {
        faults.push(format!("{tip} is at {place:?}, and belongs to {} to {}", share(from), share(to)));
    }
    if item["alone"] == true
        && let Some(low) = is("low_ns")
    {
        let end = is("high_ns").map_or(1.0, |high| share(from + high));
        let low = share(from + low);
        for shape in item["drawn"].as_array().unwrap() {
            let is = pair(&shape["place"]);
            let belongs = if shape["kind"] == "bar" { [share(from), low] } else { [low, end] };
            if (0..2).any(|edge| (is[edge] - belongs[edge]).abs() > PLACE) {
                faults.push(format!("{tip}: {shape} belongs to {belongs:?}"));
            }
        }
    }
    faults
}

/// What may be written in a tip.
struct Truths {
    ns: Vec<f64>,
    bytes: Vec<f64>,
    bits_per_s: Vec<f64>,
}

/// All that follows from the values of an item: lengths, distances to bounds, times from the first mark, averages.
fn truths(of: &str, values: &[(String, Option<f64>)], item: &Value, records: &Value) -> Truths {
    let mut ns: Vec<f64> =
        values.iter().filter(|(name, _)| name.ends_with("_ns")).filter_map(|(_, value)| *value).collect();
    let mut bytes: Vec<f64> =
        values.iter().filter(|(name, _)| name.ends_with("bytes")).filter_map(|(_, value)| *value).collect();
    if let Some(at) = of.find("/traffic/samples/") {
        let samples = &of[..at + "/traffic/samples".len()];
        let before = value(values, "since").map(|since| format!("{samples}/{since}"));
        let begin = before.as_ref().and_then(|before| number(records, &format!("{before}/at_ns")));
        ns.push(begin.unwrap_or_else(|| item["from"].as_f64().unwrap()));
        ns.extend(last_packet(of, records));
        let crossed = |field: &str| {
            let earlier = before.as_ref().and_then(|before| number(records, &format!("{before}/{field}")));
            number(records, &format!("{of}/{field}")).unwrap_or(0.0) - earlier.unwrap_or(0.0)
        };
        let [sent, received] = [crossed("wire_bytes/tx"), crossed("wire_bytes/rx")];
        let disk = crossed("disk_wire_bytes/tx");
        bytes.extend([sent, received, disk, sent - disk]);
    }
    // A part has its bytes and its beginning beside its length.
    let part = of.trim_end_matches("/length");
    bytes.extend(number(records, &format!("{part}/wire_bytes")));
    ns.extend(number(records, &format!("{part}/start_ns")));
    let downtime = of.split("/downtime").next().unwrap().to_owned() + "/downtime/marks";
    let marks = records.pointer(&downtime).and_then(Value::as_array);
    ns.extend(marks.into_iter().flatten().filter_map(|mark| mark["at_ns"].as_f64()));
    let apart: Vec<f64> = ns.iter().flat_map(|one| ns.iter().map(move |other| (one - other).abs())).collect();
    let averages = bytes
        .iter()
        .flat_map(|bytes| ns.iter().chain(&apart).filter(|ns| **ns > 0.0).map(move |ns| bytes * 8e9 / ns));
    let bits_per_s = averages.collect();
    ns.extend(apart);
    Truths { ns, bytes, bits_per_s }
}

/// The quantities that a tip says are those of its values, to as many digits as it shows.
fn check_tip(tip: &str, truths: &Truths) -> Vec<String> {
    let words: Vec<&str> = tip.split([' ', ';', ',', '(', ')']).filter(|word| !word.is_empty()).collect();
    let quantities = words.windows(2).filter_map(|pair| Some((pair, unit(pair[1])?, pair[0].parse().ok()?)));
    let wrong = quantities.filter_map(|(pair, (kind, unit), shown): (_, _, f64)| {
        let decimals = pair[0].split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let digit = unit * 10_f64.powi(-i32::try_from(decimals).unwrap());
        let known = match kind {
            Kind::Time => &truths.ns,
            Kind::Bytes => &truths.bytes,
            Kind::Rate => &truths.bits_per_s,
        };
        let is = |known: &f64| (known.abs() - shown.abs() * unit).abs() <= digit * 0.51;
        (!known.iter().any(is)).then(|| format!("{} of {tip:?} is not the record's", pair.join(" ")))
    });
    wrong.collect()
}

enum Kind {
    Time,
    Bytes,
    Rate,
}

fn unit(name: &str) -> Option<(Kind, f64)> {
    Some(match name {
        "s" => (Kind::Time, 1e9),
        "ms" => (Kind::Time, 1e6),
        "µs" => (Kind::Time, 1e3),
        "ns" => (Kind::Time, 1.0),
        "B" => (Kind::Bytes, 1.0),
        "KiB" => (Kind::Bytes, 1024.0),
        "MiB" => (Kind::Bytes, 1024.0_f64.powi(2)),
        "GiB" => (Kind::Bytes, 1024.0_f64.powi(3)),
        "bit/s" => (Kind::Rate, 1.0),
        "kbit/s" => (Kind::Rate, 1e3),
        "Mbit/s" => (Kind::Rate, 1e6),
        "Gbit/s" => (Kind::Rate, 1e9),
        _ => return None,
    })
}

/// The cells that repeat a number of the record do so to the last digit.
pub(crate) fn check_cells(cells: &Value, records: &Value) -> Vec<String> {
    let wrong = cells.as_array().unwrap().iter().filter_map(|cell| {
        let (of, text) = (cell["of"].as_str().unwrap(), cell["text"].as_str().unwrap());
        let shown: String = text.chars().filter(|c| *c != ' ').collect();
        let known = records.pointer(of).map(Value::to_string);
        (known.as_ref() != Some(&shown)).then(|| format!("{of} is {known:?}, and its cell says {text}"))
    });
    wrong.collect()
}

/// The steps of a curve are as high as the rates that they show, by the scale that is written beside them.
pub(crate) fn check_curves(curves: &Value, records: &Value) -> Vec<String> {
    curves.as_array().unwrap().iter().flat_map(|curve| check_curve(curve, records)).collect()
}

fn check_curve(curve: &Value, records: &Value) -> Vec<String> {
    let name = curve["name"].as_str().unwrap();
    let Some((_, unit)) = unit(curve["unit"].as_str().unwrap()) else {
        return vec![format!("{name}: no unit: {}", curve["unit"])];
    };
    let ticks = curve["ticks"].as_array().unwrap();
    let [most, height] = [0, 1].map(|field| ticks.last().unwrap()[field].as_f64().unwrap());
    let steps = curve["steps"].as_array().unwrap().iter();
    let wrong = steps.filter_map(|step| {
        let of = step["of"].as_str().unwrap();
        let samples = &of[..of.rfind('/').unwrap()];
        let since = value(&values(step), "since")?;
        let at = |field: &str| {
            let [now, before] = [of.to_owned(), format!("{samples}/{since}")];
            let [now, before] =
                [now, before].map(|sample| number(records, &format!("{sample}/{field}")).unwrap_or(0.0));
            now - before
        };
        let bytes = match name {
            "Sent" => at("wire_bytes/tx"),
            "Sent: memory" => at("wire_bytes/tx") - at("disk_wire_bytes/tx"),
            "Sent: disk" => at("disk_wire_bytes/tx"),
            _ => at("wire_bytes/rx"),
        };
        let begin = number(records, &format!("{samples}/{since}/at_ns")).unwrap_or(0.0);
        let end = begin + at("at_ns");
        let length = last_packet(of, records).map_or(end, |last| last.min(end)) - begin;
        let belongs = bytes * 8e9 / length / unit * height / most;
        let is = step["height"].as_f64().unwrap();
        ((is - belongs).abs() > 0.02).then(|| format!("{name}: the step to {of} is {is} high, not {belongs}"))
    });
    wrong.collect()
}
