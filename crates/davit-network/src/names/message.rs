//! Messages of the domain name system (RFC 1035 § 4), as far as a resolver for few names needs them.

use std::net::IpAddr;

/// Bytes of a header.
const HEADER: usize = 12;
/// Most bytes of a name as it is sent (RFC 1035 § 2.3.4).
const NAME_BYTES: usize = 255;
/// Most bytes of an answer over UDP that every client takes (RFC 1035 § 2.3.4).
const ANSWER_BYTES: usize = 512;
/// How long an answer may be remembered, in seconds: an address may be another container's soon.
const TIME_TO_LIVE: u32 = 5;
const INTERNET: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What an answer without addresses says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Nobody could be asked.
    Failure = 2,
    /// There is no such name.
    NoName = 3,
}

/// A message's only question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, with dots between its labels and none at its end.
    pub(super) name: String,
    kind: u16,
    class: u16,
    /// Where in the message it ends.
    end: usize,
}

impl Question {
    /// Reads a standard query with one question; `None` for anything else.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let header = message.get(..HEADER)?;
        let (is_response, operation) = (header[2] & 0x80 != 0, header[2] & 0x78);
        if is_response || operation != 0 || header[4..6] != [0, 1] {
            return None;
        }
        let (mut name, mut at) = (String::new(), HEADER);
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            // Two bits more would make it a pointer, which a question has nothing to point to.
            if length > 63 || at + length > HEADER + NAME_BYTES {
                return None;
            }
            if length == 0 {
                break;
            }
            if !name.is_empty() {
                name.push('.');
            }
            // What is not ASCII is no container's name; each byte stays one letter.
            let label = message.get(at..at + length)?;
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            at += length;
        }
        let rest = message.get(at..at + 4)?;
        let (kind, class) =
            (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
        Some(Self { name, kind, class, end: at + 4 })
    }

    /// The answer to `message` with those addresses that it asks for: of a name that has none of
    /// the kind there are none.
    pub(super) fn answer(&self, message: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
        let mut answer = self.header(message, 0);
        let mut count = 0_u16;
        for address in addresses {
            let data = match (address, self.kind) {
                (IpAddr::V4(address), TYPE_A) => address.octets().to_vec(),
                (IpAddr::V6(address), TYPE_AAAA) => address.octets().to_vec(),
                _ => continue,
            };
            if self.class != INTERNET || answer.len() + HEADER + data.len() > ANSWER_BYTES {
                break;
            }
            // The name is the question's.
            answer.extend([0xc0, 12]);
            answer.extend(self.kind.to_be_bytes());
            answer.extend(INTERNET.to_be_bytes());
            answer.extend(TIME_TO_LIVE.to_be_bytes());
            answer.extend([0, if address.is_ipv4() { 4 } else { 16 }]);
            answer.extend(data);
            count += 1;
        }
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        answer
    }

    /// The answer to `message` that there is none.
    pub(super) fn refuse(&self, message: &[u8], code: Code) -> Vec<u8> {
        self.header(message, code as u8)
    }

    /// A response with the question alone.
    fn header(&self, message: &[u8], code: u8) -> Vec<u8> {
        let mut header = message[..self.end].to_vec();
        // Response, and recursion is desired as it was asked for; it is available.
        header[2] = 0x80 | (header[2] & 0x01);
        header[3] = 0x80 | code;
        header[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        header
    }
}

/// The id of a message, which has a header.
pub(super) fn id(message: &[u8]) -> [u8; 2] {
    [message[0], message[1]]
}

/// The message, which has a header, under another id.
pub(super) fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[..2].copy_from_slice(&id);
    message
}

/// Whether `message` responds to `query`, which was sent under `id`.
pub(super) fn answers(message: &[u8], query: &[u8], id: [u8; 2]) -> bool {
    let Some(question) = Question::read(query) else { return false };
    let (Some(header), Some(asked)) = (message.get(..HEADER), message.get(HEADER..question.end))
    else {
        return false;
    };
    header[..2] == id
        && header[2] & 0x80 != 0
        && asked.eq_ignore_ascii_case(&query[HEADER..question.end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query with id 0x1234 that wants recursion.
    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend([0, 1]);
        query
    }

    #[test]
    fn a_name_is_answered_by_the_addresses_of_the_kind() {
        let addresses = ["10.9.0.2", "fd00::2", "10.9.0.3"].map(|text| text.parse().unwrap());
        let message = query("Web.Mine", TYPE_A);
        let question = Question::read(&message).unwrap();
        assert_eq!(question.name, "web.mine");
        let answer = question.answer(&message, &addresses);
        assert_eq!(answer[..12], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(answer[12..message.len()], message[12..], "the question as it was asked");
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 0, 2];
        assert_eq!(answer[message.len()..][..16], record);
        assert_eq!(answer.len(), message.len() + 32);
        let message = query("web", TYPE_AAAA);
        let answer = Question::read(&message).unwrap().answer(&message, &addresses);
        assert_eq!((answer[7], answer.len()), (1, message.len() + 28));
        let message = query("web", 15);
        let answer = Question::read(&message).unwrap().answer(&message, &addresses);
        assert_eq!((answer[3], answer[7], answer.len()), (0x80, 0, message.len()));
    }

    #[test]
    fn many_addresses_fit_into_what_every_client_takes() {
        let addresses: Vec<IpAddr> =
            (0..200).map(|number| IpAddr::from([10, 9, 0, number])).collect();
        let message = query("web", TYPE_A);
        let answer = Question::read(&message).unwrap().answer(&message, &addresses);
        assert!(answer.len() <= 512 && answer.len() > 480, "{}", answer.len());
        assert_eq!(usize::from(answer[7]), (answer.len() - message.len()) / 16);
    }

    #[test]
    fn what_is_no_question_is_none() {
        let good = query("a.b", TYPE_A);
        assert!(Question::read(&good).is_some());
        for length in 0..good.len() {
            assert_eq!(Question::read(&good[..length]), None, "{length}");
        }
        let changed = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            Question::read(&message)
        };
        assert_eq!(changed(2, 0x81), None, "a response");
        assert_eq!(changed(2, 0x28), None, "an update");
        assert_eq!(changed(5, 2), None, "two questions");
        assert_eq!(changed(12, 0xc0), None, "a pointer");
        assert_eq!(changed(12, 64), None, "a label that is too long");
        let long = vec!["x".repeat(63); 4].join(".");
        assert_eq!(Question::read(&query(&long, TYPE_A)), None);
        assert!(Question::read(&query(&long[..250], TYPE_A)).is_some());
    }

    #[test]
    fn hostile_bytes_never_panic() {
        // A sequence of its own, the same each time.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).unwrap()
        };
        let good = query("web.mine.example", TYPE_A);
        for round in 0..20_000 {
            let mut message = good.clone();
            for _ in 0..=round % 4 {
                let at = usize::from(next()) % message.len();
                message[at] = next();
            }
            message.truncate(usize::from(next()) % (good.len() + 8));
            if let Some(question) = Question::read(&message) {
                assert!(question.end <= message.len());
                question.answer(&message, &["10.9.0.2".parse().unwrap()]);
            }
            answers(&message, &good, [0x12, 0x34]);
        }
    }

    #[test]
    fn an_answer_is_one_to_the_question_under_its_id() {
        let message = query("web", TYPE_A);
        let reply = Question::read(&message).unwrap().refuse(&message, Code::NoName);
        assert_eq!(reply[3], 0x83);
        let own = [0xab, 0xcd];
        let theirs = with_id(&reply, own);
        assert!(answers(&theirs, &message, own));
        assert!(!answers(&reply, &message, own), "another id");
        assert!(!answers(&with_id(&message, own), &message, own), "no response");
        assert!(!answers(&theirs[..14], &message, own), "cut off");
        let other = query("wed", TYPE_A);
        assert!(!answers(&theirs, &other, own), "another question");
        assert_eq!(id(&with_id(&theirs, id(&message))), [0x12, 0x34]);
    }
}
