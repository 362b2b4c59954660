//! The init process of the lab's guests.
fn main() {}
