//! The pickle machine: opcodes, stack and memo.

use super::PickleError;
use super::value::{Id, Pickle, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// Most values, stack entries, marks and memo entries. A supernet's file has some thousands, one with an
/// optimiser's state not ten times as many.
const LIMIT: usize = 1 << 20;

/// The state between two opcodes.
pub(super) struct Machine<'a> {
    input: &'a [u8],
    /// Next byte to read.
    at: usize,
    /// Place of the opcode that is being carried out.
    opcode_at: usize,
    pub(super) values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Bytes that `_codecs.encode` has made.
    pub(super) decoded: usize,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle that fills `input`.
    ///
    /// # Errors
    /// When it is truncated, malformed, or asks for anything beyond the allow-list.
    pub fn parse(input: &'a [u8]) -> Result<Self, PickleError> {
        let mut machine = Machine {
            input,
            at: 0,
            opcode_at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            decoded: 0,
        };
        if machine.byte()? != 0x80 {
            return Err(machine.malformed("a binary pickle begins with byte 0x80"));
        }
        if !(2..=5).contains(&machine.byte()?) {
            return Err(machine.malformed("pickle protocols 2 to 5 are read, this is another"));
        }
        loop {
            machine.opcode_at = machine.at;
            match machine.byte()? {
                b'.' => break,
                opcode => machine.step(opcode)?,
            }
        }
        let root = machine.pop()?;
        if !machine.stack.is_empty() || !machine.marks.is_empty() {
            return Err(machine.malformed("the pickle ends with more than one value"));
        }
        if machine.at != input.len() {
            return Err(machine.malformed("the pickle ends here, but more bytes follow"));
        }
        Ok(Self { values: machine.values, root })
    }
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            // FRAME: how much belongs together, which matters to readers of streams only.
            0x95 => drop(self.number(8)?),
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                // As many bits as it has, so the cast restores the sign.
                let n = self.number(4)? as u32 as i32;
                self.push(Value::Int(n.into()))?;
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.push(Value::OtherNumber)?;
            }
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.bytes(1)?,
            b'B' => self.bytes(4)?,
            // BINBYTES8, BYTEARRAY8
            0x8e | 0x96 => self.bytes(8)?,
            b'(' => {
                self.room(self.marks.len())?;
                self.marks.push(self.stack.len());
            }
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            b'q' => self.memoize_at(1)?,
            b'r' => self.memoize_at(4)?,
            // MEMOIZE: the number of entries is the new one's number, and LIMIT keeps it small.
            0x94 => self.memoize(self.memo.len() as u32)?,
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name)?,
                    _ => return Err(self.malformed("a class or function is not named by texts")),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)?;
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let result = self.call(callable, arguments)?;
                self.push_id(result)?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                self.build(object, state)?;
            }
            _ => return Err(PickleError::Opcode { offset: self.opcode_at, opcode }),
        }
        Ok(())
    }

    pub(super) fn malformed(&self, problem: &'static str) -> PickleError {
        PickleError::Malformed { offset: self.opcode_at, problem }
    }

    pub(super) fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    pub(super) fn value_mut(&mut self, id: Id) -> &mut Value<'a> {
        &mut self.values[id.0 as usize]
    }

    fn room(&self, used: usize) -> Result<(), PickleError> {
        if used < LIMIT {
            return Ok(());
        }
        Err(PickleError::TooMany { offset: self.opcode_at, limit: LIMIT })
    }

    /// A new value, on no stack yet.
    pub(super) fn add(&mut self, value: Value<'a>) -> Result<Id, PickleError> {
        self.room(self.values.len())?;
        // Below LIMIT, so it fits.
        let id = Id(self.values.len() as u32);
        self.values.push(value);
        Ok(id)
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        let id = self.add(value)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), PickleError> {
        self.room(self.stack.len())?;
        self.stack.push(id);
        Ok(())
    }

    /// The lowest height that may be popped: what lies below a mark belongs to another value.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, PickleError> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => Err(self.malformed("there is no value on the stack to work on")),
        }
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        match self.marks.pop() {
            // Popping stops at marks, so the stack is at least as high.
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.malformed("no mark says where the items begin")),
        }
    }

    fn tuple(&mut self, n: usize) -> Result<(), PickleError> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn append(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let list = self.top()?;
        match self.value_mut(list) {
            Value::List(list) => list.extend_from_slice(items),
            _ => return Err(self.malformed("items are appended to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("a dictionary is given a key without a value"));
        }
        let dict = self.top()?;
        match self.value_mut(dict) {
            Value::Dict(entries) => entries.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err(self.malformed("items are set in what is no dictionary")),
        }
        Ok(())
    }

    fn memoize_at(&mut self, bytes: usize) -> Result<(), PickleError> {
        let at = self.number(bytes)? as u32; // of at most four bytes
        self.memoize(at)
    }

    fn memoize(&mut self, at: u32) -> Result<(), PickleError> {
        self.room(self.memo.len())?;
        let id = self.top()?;
        self.memo.insert(at, id);
        Ok(())
    }

    fn recall(&mut self, bytes: usize) -> Result<(), PickleError> {
        let at = self.number(bytes)? as u32; // of at most four bytes
        match self.memo.get(&at) {
            Some(&id) => self.push_id(id),
            None => Err(self.malformed("a value is recalled that was never memorised")),
        }
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], PickleError> {
        let rest = &self.input[self.at..];
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => {
                let (offset, left) = (self.at, rest.len());
                Err(PickleError::Truncated { offset, needed: n, left })
            }
        }
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned little-endian number of at most eight bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, PickleError> {
        let taken = self.take(bytes as u64)?;
        Ok(taken.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    /// A small unsigned integer.
    fn integer(&mut self, bytes: usize) -> Result<(), PickleError> {
        let n = self.number(bytes)? as i64; // of at most two bytes
        self.push(Value::Int(n))
    }

    /// LONG1: a length, then a signed little-endian integer of so many bytes.
    fn long(&mut self) -> Result<(), PickleError> {
        let length = self.number(1)?;
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return self.push(Value::OtherNumber);
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(all)))
    }

    fn text(&mut self, length: usize) -> Result<(), PickleError> {
        let length = self.number(length)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("a text is not UTF-8"))?;
        self.push(Value::Text(text))
    }

    fn bytes(&mut self, length: usize) -> Result<(), PickleError> {
        let length = self.number(length)?;
        let bytes = self.take(length)?;
        self.push(Value::Bytes(Cow::Borrowed(bytes)))
    }

    /// A text that a line feed ends.
    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.input[self.at..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            let (offset, left) = (self.at, rest.len());
            return Err(PickleError::Truncated { offset, needed: left as u64 + 1, left });
        };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), PickleError> {
        match super::globals::resolve(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let shown = |text: &str| text.chars().take(80).collect();
                let (module, name) = (shown(module), shown(name));
                Err(PickleError::Global { offset: self.opcode_at, module, name })
            }
        }
    }

    /// How many bytes the pickle has.
    pub(super) fn input_len(&self) -> usize {
        self.input.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> String {
        Pickle::parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn plain_values_of_every_size() {
        // What `pickle.dumps([None, True, 1, 300, -2, 2**40, -2**40, 0, "é", b"x", (), (1, 2)], 4)` writes,
        // less its frame.
        let bytes = b"\x80\x04]\x94(N\x88K\x01M,\x01J\xfe\xff\xff\xff\x8a\x06\0\0\0\0\0\x01\x8a\x06\0\0\0\0\0\xffK\0\
            \x8c\x02\xc3\xa9\x94C\x01x\x94)K\x01K\x02\x86\x94e.";
        let pickle = Pickle::parse(bytes).unwrap();
        let Value::List(items) = pickle.root() else { panic!("{:?}", pickle.root()) };
        let items: Vec<&Value> = items.iter().map(|id| pickle.get(*id)).collect();
        let ints = [Value::Int(1), Value::Int(300), Value::Int(-2), Value::Int(1 << 40)];
        assert_eq!(*items[0], Value::None);
        assert_eq!(*items[1], Value::Bool(true));
        assert!(items[2..6].iter().zip(&ints).all(|(a, b)| **a == *b), "{items:?}");
        assert_eq!(*items[6], Value::Int(-(1 << 40)));
        assert_eq!(*items[8], Value::Text("é"));
        assert_eq!(*items[9], Value::Bytes(Cow::Borrowed(b"x")));
        assert_eq!(*items[10], Value::Tuple(Vec::new()));
        assert!(matches!(items[11], Value::Tuple(pair) if pair.len() == 2));
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_by_name_and_place() {
        // `os.system("true")` in both ways of naming a function.
        let old = error(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.");
        assert!(old.contains("byte 2") && old.contains("`os.system`"), "{old}");
        let new = error(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.");
        assert!(new.contains("byte 14") && new.contains("`os.system`"), "{new}");
        for (bytes, needle) in [
            (&b"\x80\x04)\x81."[..], "byte 3: opcode 0x81"), // NEWOBJ
            (b"\x80\x02I1\n.", "byte 2: opcode 0x49"),       // a text opcode
            (b"\x80\x06N.", "protocols 2 to 5"),
            (b"\x80\x02N2.", "opcode 0x32"), // DUP, which no pickler writes
        ] {
            assert!(error(bytes).contains(needle), "{} for {needle}", error(bytes));
        }
    }

    #[test]
    fn opcodes_that_do_not_fit_together_are_refused() {
        for (bytes, needle) in [
            (&b"\x80\x02."[..], "no value"),
            (b"\x80\x02NN.", "more than one"),
            (b"\x80\x02N.N", "more bytes follow"),
            (b"\x80\x02Nt.", "no mark"),
            (b"\x80\x02N(\x85.", "no value"), // below the mark
            (b"\x80\x02NNa.", "no list"),
            (b"\x80\x02NNNs.", "no dictionary"),
            (b"\x80\x02}(Nu.", "without a value"),
            (b"\x80\x02h\x07.", "never memorised"),
            (b"\x80\x02X\x01\0\0\0\xff.", "UTF-8"),
            (b"\x80\x02NNR.", "called"),
            (b"\x80\x02NNb.", "state"),
            (b"\x80\x02NQ.", "storage"),
        ] {
            assert!(error(bytes).contains(needle), "{} for {needle}", error(bytes));
        }
    }

    #[test]
    fn claimed_lengths_are_not_believed() {
        // 2^63 bytes of text, 2^32 - 1 of bytes.
        let text = error(b"\x80\x04\x8d\0\0\0\0\0\0\0\x80x");
        assert!(text.contains("byte 11: 9223372036854775808 more bytes"), "{text}");
        assert!(error(b"\x80\x04B\xff\xff\xff\xffx").contains("truncated"));
        let many = [b"\x80\x04".as_slice(), &vec![b'N'; LIMIT + 1], b"."].concat();
        assert!(error(&many).contains("more than 1048576 values"));
    }

    #[test]
    fn a_deep_nest_and_a_cycle_end_well() {
        let depth = 500_000;
        let nest = [b"\x80\x02N".as_slice(), &vec![0x85; depth], b"."].concat();
        assert_eq!(Pickle::parse(&nest).unwrap().values.len(), depth + 1);
        // A list that holds itself.
        assert!(Pickle::parse(b"\x80\x02]q\0h\0a.").is_ok());
    }
}
