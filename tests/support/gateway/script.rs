//! What the gateway answers to whom.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Answer {
    Status {
        code: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
        /// How long the answer is kept back.
        after: Duration,
    },
    /// Never answers; the connection stays open.
    Hang,
    /// Takes the request and resets the connection.
    Reset,
}

#[derive(Debug, Default)]
pub(super) struct Script {
    asked: HashMap<String, usize>,
    next: HashMap<String, VecDeque<Answer>>,
    always: HashMap<String, Answer>,
    pub(super) otherwise: Answer,
}

impl Answer {
    pub fn status(code: u16) -> Self {
        Self::Status { code, headers: Vec::new(), body: String::new(), after: Duration::ZERO }
    }

    pub fn ok() -> Self {
        Self::status(200)
    }

    /// `Retry-After`, in seconds or as a date.
    #[must_use]
    pub fn retry_after(self, value: &str) -> Self {
        self.with_header("retry-after", value)
    }

    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Status { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }

    #[must_use]
    pub fn with_body(mut self, text: &str) -> Self {
        if let Self::Status { body, .. } = &mut self {
            text.clone_into(body);
        }
        self
    }

    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        if let Self::Status { after, .. } = &mut self {
            *after = delay;
        }
        self
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self::ok()
    }
}

impl Script {
    pub(super) fn next_for(&mut self, order_id: &str, answers: impl IntoIterator<Item = Answer>) {
        let queue = self.next.entry(order_id.to_owned()).or_default();
        queue.extend(answers);
    }

    pub(super) fn forget_next(&mut self) {
        self.next.clear();
    }

    pub(super) fn always_for(&mut self, order_id: &str, answer: Answer) {
        self.always.insert(order_id.to_owned(), answer);
    }

    /// How many requests for this order came before, and the answer to this one.
    pub(super) fn answer_to(&mut self, order_id: &str) -> (usize, Answer) {
        let asked = self.asked.entry(order_id.to_owned()).or_default();
        let sequence = *asked;
        *asked += 1;
        let next = self.next.get_mut(order_id).and_then(VecDeque::pop_front);
        let answer = next.or_else(|| self.always.get(order_id).cloned()).unwrap_or_else(|| self.otherwise.clone());
        (sequence, answer)
    }
}
