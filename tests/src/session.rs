//! Changes to recorded sessions, as text.

/// A session without its calls of this name, and how many they were.
pub fn without(session: &str, call: &str) -> (String, usize) {
    let begins = format!("- call: {call}\n");
    let mut parts = session.split(&begins);
    let mut left = parts.next().unwrap_or_default().to_owned();
    let mut removed = 0;
    for part in parts {
        removed += 1;
        // Members of a call are indented; what follows is not.
        let members = part.lines().take_while(|line| line.starts_with(' '));
        let length: usize = members.map(|line| line.len() + 1).sum();
        left.push_str(&part[length..]);
    }
    (left, removed)
}
