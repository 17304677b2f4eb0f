//! The part of Python's pickle language (protocol 2) that `torch.save` writes, read as data: no class is looked up and
//! nothing is called. A call becomes a node that names what it would have called.
//!
//! Nodes live in one list and refer to each other by number: however deep or shared, reading and dropping them takes no
//! recursion, and a memo costs a number. One node an instruction, at most, and instructions are counted.

use std::collections::HashMap;

/// Most instructions; a router file has some thousands.
const MOST_INSTRUCTIONS: usize = 1_000_000;

/// Number of a node.
pub(super) type Id = usize;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// None, booleans, floats, bytes: nothing that a state dict's structure hangs on.
    Other,
    Integer(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A dict, an ordered one too.
    Dict(Vec<(Id, Id)>),
    /// `module.name`.
    Global(String),
    /// What would have been called, and its arguments.
    Call(Id, Id),
    /// A reference to data outside the pickle.
    Persistent(Id),
}

/// The nodes of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Reads a pickle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine =
            Machine { input: bytes, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        for _ in 0..MOST_INSTRUCTIONS {
            if machine.step()? {
                let root = machine.pop()?;
                return Ok(Self { nodes: machine.nodes, root });
            }
        }
        Err(format!("a pickle of more than {MOST_INSTRUCTIONS} instructions"))
    }

    /// The value that it all makes.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    /// A node.
    pub(super) fn node(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::Other)
    }

    /// The value of a text key in a dict.
    pub(super) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Node::Dict(entries) = self.node(dict) else { return None };
        entries.iter().find(|(name, _)| *self.node(*name) == Node::Text(key.to_owned())).map(|(_, value)| *value)
    }

    /// The arguments of a call of `module.name`.
    pub(super) fn call(&self, id: Id, name: &str) -> Option<&[Id]> {
        let Node::Call(callable, arguments) = self.node(id) else { return None };
        match (self.node(*callable), self.node(*arguments)) {
            (Node::Global(found), Node::Tuple(arguments)) if found == name => Some(arguments),
            _ => None,
        }
    }
}

/// Reads instructions.
struct Machine<'a> {
    input: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    /// One instruction; true at the end of the pickle.
    fn step(&mut self) -> Result<bool, String> {
        let [instruction] = self.take::<1>()?;
        match instruction {
            b'.' => return Ok(true),
            0x80 => self.protocol()?,
            0x95 => drop(self.take::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 => self.push(Node::Other),
            b'G' => {
                self.take::<8>()?;
                self.push(Node::Other);
            }
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Node::Integer(value.into()));
            }
            b'K' => {
                let [value] = self.take()?;
                self.push(Node::Integer(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take()?);
                self.push(Node::Integer(value.into()));
            }
            0x8a => self.long()?,
            b'X' => {
                let length = u32::from_le_bytes(self.take()?);
                self.text(length as usize)?;
            }
            0x8c => {
                let [length] = self.take()?;
                self.text(length.into())?;
            }
            b'B' | b'T' => {
                let length = u32::from_le_bytes(self.take()?);
                self.bytes(length as usize)?;
                self.push(Node::Other);
            }
            b'C' | b'U' => {
                let [length] = self.take()?;
                self.bytes(length.into())?;
                self.push(Node::Other);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(format!("{module}.{name}")));
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            _ => self.assemble(instruction)?,
        }
        Ok(false)
    }

    /// Instructions that take values from the stack.
    fn assemble(&mut self, instruction: u8) -> Result<(), String> {
        match instruction {
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items));
            }
            count @ 0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(count - 0x84)).ok_or_else(too_short)?;
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items));
            }
            b'l' => {
                let items = self.since_mark()?;
                self.push(Node::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend(items)?;
            }
            b'd' => {
                let items = self.since_mark()?;
                self.push(Node::Dict(pairs(&items)));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.fill(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.fill(items)?;
            }
            b'q' => {
                let [slot] = self.take()?;
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.take()?);
                self.remember(slot)?;
            }
            b'h' => {
                let [slot] = self.take()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.take()?);
                self.recall(slot)?;
            }
            b'Q' => {
                let reference = self.pop()?;
                self.push(Node::Persistent(reference));
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let ordered =
                    matches!(self.nodes.get(callable), Some(Node::Global(name)) if name == "collections.OrderedDict");
                self.push(if ordered { Node::Dict(Vec::new()) } else { Node::Call(callable, arguments) });
            }
            // The state of an object: its structure is not ours to know.
            b'b' => drop(self.pop()?),
            other => return Err(format!("instruction 0x{other:02x} is none that torch.save writes")),
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), String> {
        let [version] = self.take()?;
        if version > 5 { Err(format!("pickle protocol {version} is unknown")) } else { Ok(()) }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.input.split_first_chunk::<N>().ok_or_else(too_short)?;
        self.input = rest;
        Ok(*head)
    }

    fn bytes(&mut self, length: usize) -> Result<&[u8], String> {
        let (head, rest) = self.input.split_at_checked(length).ok_or_else(too_short)?;
        self.input = rest;
        Ok(head)
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text = String::from_utf8(self.bytes(length)?.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())?;
        self.push(Node::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.input.iter().position(|&byte| byte == b'\n').ok_or_else(too_short)?;
        let line = String::from_utf8_lossy(self.bytes(end)?).into_owned();
        self.take::<1>()?;
        Ok(line)
    }

    /// An integer of some bytes, little-endian; one beyond i64 is nothing that counts anything here.
    fn long(&mut self) -> Result<(), String> {
        let [length] = self.take()?;
        let bytes = self.bytes(length.into())?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let fits = bytes.len() <= wide.len();
        wide.iter_mut().zip(bytes).for_each(|(slot, &byte)| *slot = byte);
        self.push(if fits { Node::Integer(i64::from_le_bytes(wide)) } else { Node::Other });
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.stack.pop().ok_or_else(too_short)
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(too_short)
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or_else(too_short)?;
        Ok(self.stack.split_off(mark))
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), String> {
        let list = self.top()?;
        if let Some(Node::List(known)) = self.nodes.get_mut(list) {
            known.extend(items);
        }
        Ok(())
    }

    fn fill(&mut self, items: Vec<Id>) -> Result<(), String> {
        let dict = self.top()?;
        if let Some(Node::Dict(known)) = self.nodes.get_mut(dict) {
            known.extend(pairs(&items));
        }
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let id = self.memo.get(&slot).copied().ok_or_else(|| format!("memo {slot} was never filled"))?;
        self.stack.push(id);
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect()
}

fn too_short() -> String {
    "the pickle ends or its stack is empty too early".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_data_and_calls_nothing() {
        // os.system('true'), as a hostile file would have it.
        let pickle = Pickle::read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
        let arguments = pickle.call(pickle.root(), "os.system").unwrap();
        assert_eq!(*pickle.node(arguments[0]), Node::Text("true".into()));
    }

    #[test]
    fn dicts_lists_and_memos() {
        // {'a': [1, 258], 'b': <the same list>}
        let pickle =
            Pickle::read(b"\x80\x02}q\x00(X\x01\x00\x00\x00a]q\x01(K\x01M\x02\x01eX\x01\x00\x00\x00bh\x01u.").unwrap();
        let list = pickle.entry(pickle.root(), "a").unwrap();
        assert_eq!(pickle.entry(pickle.root(), "b"), Some(list));
        let Node::List(items) = pickle.node(list) else { panic!("{:?}", pickle.node(list)) };
        assert_eq!((pickle.node(items[0]), pickle.node(items[1])), (&Node::Integer(1), &Node::Integer(258)));
    }

    #[test]
    fn broken_pickles_say_so() {
        for bytes in
            [&b""[..], b"\x80\x02", b"\x80\x09N.", b"h\x07.", b"t.", b"\x86.", b"R.", b"X\xff\xff\xff\xffa.", b"\xee."]
        {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pickle::read(&bytes);
        }

        #[test]
        fn no_instructions_panic(bytes in prop::collection::vec(prop::sample::select(b"N()]}te\x85\x86\x87lasudq\x00h\x00QR\x81b0K\x01.".to_vec()), 0..200)) {
            let _ = Pickle::read(&bytes);
        }
    }
}
