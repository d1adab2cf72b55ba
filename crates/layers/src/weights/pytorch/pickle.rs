//! Pickles, as far as they say which tensors there are.
//!
//! A pickle is a program for a machine with a stack, which calls whatever Python has. This machine calls nothing: it knows
//! the few functions that make tensors and dictionaries by their names, and what any other would make is
//! [`Object::Other`].
//!
//! The instructions are those of Python's `pickletools`, of the protocols 2 to 5 and what `torch.save` takes of the older
//! ones.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::Dtype;

use super::{dtype, malformed};
use crate::WeightsError;

/// An object's place among all; objects refer to each other by it, so that they may be shared and hold themselves.
pub(super) type Id = usize;

/// The numbers of one or more tensors.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) name: String,
    pub(super) dtype: Dtype,
}

/// A tensor: which numbers of a storage it takes.
#[derive(Clone, Debug)]
pub(super) struct TensorView {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Object {
    Bool(bool),
    Integer(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class, by its full name.
    Global(String),
    Storage(Storage),
    Tensor(TensorView),
    /// What has no meaning here.
    Other,
}

/// The objects of one pickle or of several.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    storages: BTreeMap<String, Storage>,
}

/// One pickle while it is read.
struct Machine<'a, 'b> {
    pickle: &'a mut Pickle,
    rest: &'a mut &'b [u8],
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Pickle {
    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id]
    }

    /// What a dictionary has under a word.
    pub(super) fn entry(&self, dict: Id, word: &str) -> Option<Id> {
        let Object::Dict(entries) = self.get(dict) else {
            return None;
        };
        let entry = entries
            .iter()
            .find(|(key, _)| matches!(self.get(*key), Object::Text(text) if text == word));
        entry.map(|(_, value)| *value)
    }

    /// The words of a list.
    pub(super) fn words(&self, list: Id) -> Vec<String> {
        let Object::List(ids) = self.get(list) else {
            return vec![];
        };
        let words = ids.iter().filter_map(|id| match self.get(*id) {
            Object::Text(text) => Some(text.clone()),
            _ => None,
        });
        words.collect()
    }

    /// A storage that was named.
    pub(super) fn storage(&self, name: &str) -> Option<&Storage> {
        self.storages.get(name)
    }

    /// Follows one pickle to its end, and returns what it builds.
    pub(super) fn read(&mut self, rest: &mut &[u8]) -> Result<Id, WeightsError> {
        Machine {
            pickle: self,
            rest,
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
        }
        .run()
    }

    fn whole(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Object::Integer(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn wholes(&self, id: Id) -> Option<Vec<usize>> {
        match self.get(id) {
            Object::Tuple(ids) | Object::List(ids) => {
                ids.iter().map(|id| self.whole(*id)).collect()
            }
            _ => None,
        }
    }

    /// The tensor that `_rebuild_tensor(storage, offset, shape, strides)` makes.
    fn tensor(&self, arguments: &[Id]) -> Option<TensorView> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        let Object::Storage(storage) = self.get(storage) else {
            return None;
        };
        let (shape, strides) = (self.wholes(shape)?, self.wholes(strides)?);
        (shape.len() == strides.len()).then_some(TensorView {
            storage: storage.clone(),
            offset: self.whole(offset)?,
            shape,
            strides,
        })
    }

    /// The storage that `("storage", class, name, device, length)` stands for.
    fn persistent(&self, id: Id) -> Option<Storage> {
        let Object::Tuple(parts) = self.get(id) else {
            return None;
        };
        let &[kind, class, name, ..] = parts.as_slice() else {
            return None;
        };
        match (self.get(kind), self.get(class), self.get(name)) {
            (Object::Text(kind), Object::Global(class), Object::Text(name))
                if kind == "storage" =>
            {
                Some(Storage {
                    name: name.clone(),
                    dtype: dtype(class)?,
                })
            }
            _ => None,
        }
    }

    /// What a function makes of its arguments, if it is one of the few that are known.
    fn call(&mut self, function: Id, arguments: Id) -> Id {
        let (Object::Global(name), Object::Tuple(ids)) = (self.get(function), self.get(arguments))
        else {
            return self.add(Object::Other);
        };
        let made = match name.as_str() {
            "collections.OrderedDict" => Object::Dict(match ids[..] {
                [pairs] => self.pairs(pairs),
                _ => vec![],
            }),
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {
                self.tensor(ids).map_or(Object::Other, Object::Tensor)
            }
            // A parameter is its tensor.
            "torch._utils._rebuild_parameter" if !ids.is_empty() => return ids[0],
            // A subclass of tensors is made by a function, a class and the function's arguments.
            "torch._tensor._rebuild_from_type_v2" if ids.len() >= 3 => {
                let (function, arguments) = (ids[0], ids[2]);
                // Once: what a file says may not lead in a circle.
                match (self.get(function), self.get(arguments)) {
                    (Object::Global(name), Object::Tuple(ids))
                        if name == "torch._utils._rebuild_tensor_v2" =>
                    {
                        self.tensor(ids).map_or(Object::Other, Object::Tensor)
                    }
                    _ => Object::Other,
                }
            }
            _ => Object::Other,
        };
        self.add(made)
    }

    /// The pairs of a list of pairs.
    fn pairs(&self, list: Id) -> Vec<(Id, Id)> {
        let Object::List(ids) = self.get(list) else {
            return vec![];
        };
        let pairs = ids.iter().filter_map(|id| match self.get(*id) {
            Object::Tuple(pair) | Object::List(pair) => match pair[..] {
                [key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        });
        pairs.collect()
    }

    fn add(&mut self, object: Object) -> Id {
        self.objects.push(object);
        self.objects.len() - 1
    }
}

impl Machine<'_, '_> {
    fn run(mut self) -> Result<Id, WeightsError> {
        loop {
            let code = self.take(1)?[0];
            if code == b'.' {
                return self.pop();
            }
            self.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), WeightsError> {
        match code {
            // The protocol, and the length of what follows.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Object::Other),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'J' => {
                let value = self.number::<4>()?;
                self.push(Object::Integer(i64::from(i32::from_le_bytes(value))));
            }
            b'K' => {
                let value = self.take(1)?[0];
                self.push(Object::Integer(i64::from(value)));
            }
            b'M' => {
                let value = self.number::<2>()?;
                self.push(Object::Integer(i64::from(u16::from_le_bytes(value))));
            }
            0x8a => {
                let length = self.take(1)?[0];
                self.long(u64::from(length))?;
            }
            0x8b => {
                let length = u32::from_le_bytes(self.number()?);
                self.long(u64::from(length))?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Object::Other);
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.number()?);
                self.text(u64::from(length))?;
            }
            0x8c | b'U' => {
                let length = self.take(1)?[0];
                self.text(u64::from(length))?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.number()?);
                self.text(length)?;
            }
            b'C' => {
                let length = self.take(1)?[0];
                self.pass_over(u64::from(length))?;
            }
            b'B' => {
                let length = u32::from_le_bytes(self.number()?);
                self.pass_over(u64::from(length))?;
            }
            0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.number()?);
                self.pass_over(length)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = match (self.pickle.get(module), self.pickle.get(name)) {
                    (Object::Text(module), Object::Text(name)) => {
                        Object::Global(format!("{module}.{name}"))
                    }
                    _ => Object::Other,
                };
                self.push(global);
            }
            b'q' => {
                let key = self.take(1)?[0];
                self.remember(u32::from(key))?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.number()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(u32::from(key))?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.number()?);
                self.recall(key)?;
            }
            _ => self.build(code)?,
        }
        Ok(())
    }

    /// What makes objects of objects.
    fn build(&mut self, code: u8) -> Result<(), WeightsError> {
        match code {
            b')' => self.push(Object::Tuple(vec![])),
            b't' => {
                let ids = self.pop_mark()?;
                self.push(Object::Tuple(ids));
            }
            0x85..=0x87 => {
                let length = usize::from(code - 0x84);
                let start = self.stack.len().checked_sub(length);
                let ids = self.stack.split_off(start.ok_or_else(ends)?);
                self.push(Object::Tuple(ids));
            }
            b']' => self.push(Object::List(vec![])),
            b'l' => {
                let ids = self.pop_mark()?;
                self.push(Object::List(ids));
            }
            b'a' => {
                let id = self.pop()?;
                self.extend_list(vec![id])?;
            }
            b'e' => {
                let ids = self.pop_mark()?;
                self.extend_list(ids)?;
            }
            b'}' => self.push(Object::Dict(vec![])),
            b'd' => {
                let ids = self.pop_mark()?;
                self.push(Object::Dict(vec![]));
                self.extend_dict(&ids)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let ids = self.pop_mark()?;
                self.extend_dict(&ids)?;
            }
            // Sets.
            0x8f => self.push(Object::Other),
            0x90 => drop(self.pop_mark()?),
            0x91 => {
                self.pop_mark()?;
                self.push(Object::Other);
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.pickle.call(function, arguments);
                self.stack.push(made);
            }
            // An object of a class, and one with named arguments.
            0x81 | 0x92 => {
                for _ in 0..if code == 0x81 { 2 } else { 3 } {
                    self.pop()?;
                }
                self.push(Object::Other);
            }
            // What is set on an object besides what it was made of.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                let object = match self.pickle.persistent(id) {
                    Some(storage) => {
                        let name = storage.name.clone();
                        self.pickle.storages.insert(name, storage.clone());
                        Object::Storage(storage)
                    }
                    None => Object::Other,
                };
                self.push(object);
            }
            _ => {
                return Err(malformed(format!(
                    "its pickle has the instruction {code:#04x}, which torch.save does not write"
                )));
            }
        }
        Ok(())
    }

    fn take(&mut self, length: u64) -> Result<&[u8], WeightsError> {
        let length = usize::try_from(length).map_err(|_| ends())?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(ends)?;
        *self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], WeightsError> {
        self.take(N as u64)?.try_into().map_err(|_| ends())
    }

    fn line(&mut self) -> Result<String, WeightsError> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or_else(ends)? as u64 + 1)?;
        Ok(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned())
    }

    fn text(&mut self, length: u64) -> Result<(), WeightsError> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Object::Text(text));
        Ok(())
    }

    fn pass_over(&mut self, length: u64) -> Result<(), WeightsError> {
        self.take(length)?;
        self.push(Object::Other);
        Ok(())
    }

    /// A whole number of any length; what does not fit has no meaning here.
    fn long(&mut self, length: u64) -> Result<(), WeightsError> {
        let bytes = self.take(length)?;
        let object = if bytes.len() <= 8 {
            let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut whole = [if negative { 0xff } else { 0 }; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            Object::Integer(i64::from_le_bytes(whole))
        } else {
            Object::Other
        };
        self.push(object);
        Ok(())
    }

    fn push(&mut self, object: Object) {
        let id = self.pickle.add(object);
        self.stack.push(id);
    }

    fn top(&self) -> Result<Id, WeightsError> {
        self.stack.last().copied().ok_or_else(ends)
    }

    fn pop(&mut self) -> Result<Id, WeightsError> {
        self.stack.pop().ok_or_else(ends)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, WeightsError> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(ends)?))
    }

    fn extend_list(&mut self, ids: Vec<Id>) -> Result<(), WeightsError> {
        let top = self.top()?;
        if let Object::List(list) = &mut self.pickle.objects[top] {
            list.extend(ids);
        }
        Ok(())
    }

    fn extend_dict(&mut self, ids: &[Id]) -> Result<(), WeightsError> {
        let top = self.top()?;
        if let Object::Dict(entries) = &mut self.pickle.objects[top] {
            entries.extend(ids.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), WeightsError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), WeightsError> {
        let id = self.memo.get(&key).copied();
        self.stack.push(id.ok_or_else(ends)?);
        Ok(())
    }
}

fn ends() -> WeightsError {
    malformed("its pickle is broken or cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Pickle, Id), WeightsError> {
        let mut pickle = Pickle::default();
        let id = pickle.read(&mut &bytes[..])?;
        Ok((pickle, id))
    }

    #[test]
    fn nothing_is_called() {
        // os.system("x"), in a dictionary under a word and under what it returns.
        let (pickle, root) =
            read(b"\x80\x02}(X\x01\x00\x00\x00acos\nsystem\nX\x01\x00\x00\x00x\x85RK\x01K\x02u.")
                .expect("it is well formed");
        let value = pickle.entry(root, "a").expect("it is there");
        assert!(matches!(pickle.get(value), Object::Other));
    }

    #[test]
    fn a_dictionary_may_hold_itself() {
        let (pickle, root) = read(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.").expect("well formed");
        assert_eq!(pickle.entry(root, "a"), Some(root));
        let mut tensors = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        super::super::collect(&pickle, root, "", 0, &mut seen, &mut tensors);
        assert!(tensors.is_empty());
    }

    #[test]
    fn whole_numbers_have_signs() {
        for (bytes, expected) in [
            (&b"J\xff\xff\xff\xff."[..], -1),
            (b"\x8a\x01\x80.", -128),
            (b"\x8a\x02\x80\x00.", 128),
            (b"\x8a\x00.", 0),
            (b"M\x00\x80.", 32_768),
        ] {
            let (pickle, id) = read(bytes).expect("it is well formed");
            assert!(matches!(pickle.get(id), Object::Integer(found) if *found == expected));
        }
    }

    #[test]
    fn what_is_broken_is_an_error() {
        for bytes in [
            &b""[..],
            b".",
            b"t.",
            b"u.",
            b"h\x07.",
            b"X\xff\xff\xff\xff.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"cos\nsystem",
            b"(0.",
            b"\x86.",
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        let error = read(b"\x80\x02\x82\x01.").expect_err("an extension");
        assert_eq!(
            error.to_string(),
            "is not a readable PyTorch file: its pickle has the instruction 0x82, which torch.save does not write"
        );
    }
}
