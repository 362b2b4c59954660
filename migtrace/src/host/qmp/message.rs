//! QMP on the wire: JSON objects one after the other, the first of them a greeting.

use serde_json::Value;

/// The longest answer that is read. The longest of those asked for is `query-migrate`, with some kilobytes.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Takes the first whole object out of what was received; `None` when it is not whole yet.
///
/// # Errors
/// What was received is not QMP, and why.
pub(super) fn take_message(received: &mut Vec<u8>) -> Result<Option<Value>, String> {
    // An object ends with a line. Until then there is nothing to try.
    if !received.contains(&b'\n') {
        return incomplete(received);
    }
    let mut objects = serde_json::Deserializer::from_slice(received).into_iter::<Value>();
    match objects.next() {
        None => {
            received.clear();
            Ok(None)
        }
        Some(Ok(message)) if message.is_object() => {
            let end = objects.byte_offset();
            received.drain(..end);
            Ok(Some(message))
        }
        Some(Err(error)) if error.is_eof() => incomplete(received),
        Some(Ok(_)) => Err("a message is not a JSON object".to_owned()),
        Some(Err(error)) => Err(format!("a message is not JSON: {error}")),
    }
}

fn incomplete(received: &[u8]) -> Result<Option<Value>, String> {
    if received.len() > MAX_MESSAGE_BYTES {
        return Err("a message has no end".to_owned());
    }
    Ok(None)
}

/// QEMU's version in a greeting: `7.2.22 (Debian 1:7.2+dfsg-7)`.
pub(super) fn version(greeting: &Value) -> Option<String> {
    let version = greeting.get("version")?;
    let number = |part| version.get("qemu")?.get(part)?.as_u64();
    let numbers = format!("{}.{}.{}", number("major")?, number("minor")?, number("micro")?);
    let package = version.get("package").and_then(Value::as_str).unwrap_or_default().trim();
    if package.is_empty() {
        return Some(numbers);
    }
    // Some builds put it in parentheses, some do not.
    let package = package.trim_start_matches('(').trim_end_matches(')');
    Some(format!("{numbers} ({package})"))
}
