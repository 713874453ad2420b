//! RFC 6455 at the level of bytes: frames as a server writes them, right and wrong, and frames of
//! a client taken apart.
//!
//! Written by hand rather than with the library that the program uses, so that a mistake in it
//! can't hide itself. Does no I/O.

use std::fmt;

/// The bit that says that a frame ends its message.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A client's frame may be so long: subscriptions and control frames are all it sends.
const CLIENT_FRAME_BYTES_MAX: u64 = 1 << 20;

/// A message as RFC 6455 means it.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Vec<u8>),
}

impl Message {
    pub fn text(text: impl Into<String>) -> Message {
        Message::Text(text.into())
    }

    pub fn binary(bytes: impl Into<Vec<u8>>) -> Message {
        Message::Binary(bytes.into())
    }

    pub fn payload(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    pub fn opcode(&self) -> u8 {
        match self {
            Message::Text(_) => TEXT,
            Message::Binary(_) => BINARY,
        }
    }
}

/// Short, however long the message is.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.opcode() == TEXT { "text" } else { "binary" };
        write!(f, "{name} {}", brief(self.payload()))
    }
}

/// Bytes for people: all of a short text, else the length and how it starts.
pub fn brief(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    if bytes.len() <= SHOWN {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    format!("({} bytes) \"{}...\"", bytes.len(), bytes[..SHOWN].escape_ascii())
}

/// A frame as a server sends it. `head` is the first byte: FIN, reserved bits, opcode.
pub fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_header(head, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// The header alone; the length is the shortest form that holds it (section 5.2).
pub fn frame_header(head: u8, payload_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![head];
    match payload_bytes {
        0..=125 => bytes.push(payload_bytes as u8),
        126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&payload_bytes.to_be_bytes());
        }
    }
    bytes
}

/// A frame masked as a client must do it, which a server must not.
pub fn masked_frame(head: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = frame_header(head, payload.len() as u64);
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A whole message in one frame.
pub fn message(message: &Message) -> Vec<u8> {
    frame(FIN | message.opcode(), message.payload())
}

/// A message in as many frames as there are pieces, with `between` after each but the last.
pub fn fragments(opcode: u8, pieces: &[&[u8]], between: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let last = at + 1 == pieces.len();
        let fin = if last { FIN } else { 0 };
        bytes.extend(frame(fin | if at == 0 { opcode } else { CONTINUATION }, piece));
        if !last {
            bytes.extend_from_slice(between);
        }
    }
    bytes
}

/// A close frame.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    frame(FIN | CLOSE, &payload)
}

/// A frame that a client sent, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFrame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl ClientFrame {
    /// The code of a close frame; `None` where it has no payload.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*code))
    }
}

/// Takes the first frame out of `inbox`; `None` where it isn't all there yet.
///
/// # Errors
/// What no client may send: no mask, reserved bits, fragments, more than the limit.
pub fn take_client_frame(inbox: &mut Vec<u8>) -> Result<Option<ClientFrame>, String> {
    let Some([head, second]) = inbox.first_chunk::<2>().copied() else { return Ok(None) };
    if head & 0x70 != 0 {
        return Err(format!("the client set reserved bits: first byte {head:#04x}"));
    }
    if head & FIN == 0 {
        return Err(format!("the client fragmented a message: first byte {head:#04x}"));
    }
    if second & 0x80 == 0 {
        return Err("the client sent a frame without a mask".to_string());
    }
    let (header_bytes, payload_bytes) = match second & 0x7f {
        126 => {
            let Some(length) = inbox.get(2..4) else { return Ok(None) };
            (4, u64::from(u16::from_be_bytes(length.try_into().unwrap())))
        }
        127 => {
            let Some(length) = inbox.get(2..10) else { return Ok(None) };
            (10, u64::from_be_bytes(length.try_into().unwrap()))
        }
        short => (2, u64::from(short)),
    };
    if payload_bytes > CLIENT_FRAME_BYTES_MAX {
        return Err(format!("the client announced a frame of {payload_bytes} bytes"));
    }
    let end = header_bytes + 4 + payload_bytes as usize;
    if inbox.len() < end {
        return Ok(None);
    }
    let mask: [u8; 4] = inbox[header_bytes..header_bytes + 4].try_into().unwrap();
    let payload = inbox[header_bytes + 4..end]
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    inbox.drain(..end);
    Ok(Some(ClientFrame { opcode: head & 0x0f, payload }))
}

#[test]
fn frames_of_any_length_read_back() {
    for bytes in [0usize, 1, 125, 126, 127, 0xffff, 0x1_0000] {
        let payload = vec![b'x'; bytes];
        let mut inbox = masked_frame(FIN | TEXT, &payload);
        let rest = inbox.split_off(inbox.len() - 1);
        assert_eq!(take_client_frame(&mut inbox).unwrap(), None, "{bytes}: one byte is missing");
        inbox.extend(rest);
        inbox.push(b'y');
        let frame = take_client_frame(&mut inbox).unwrap().unwrap();
        assert_eq!((frame.opcode, frame.payload), (TEXT, payload));
        assert_eq!(inbox, b"y");
    }
}
