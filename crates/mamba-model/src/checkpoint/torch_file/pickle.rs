//! The part of Python's pickle language that a torch state dict is written in, interpreted without Python.
//!
//! A pickle is a program for a stack machine, and its general form may import and call anything. This interpreter knows
//! only the opcodes a flat dict of tensors needs, and the imports of an allow-list, which it stands in for with plain
//! records: no code of the file is ever run. Values are small copies that point into arenas, so a hostile file can
//! nest as deep as it likes without deep recursion, and memory stays in proportion to the file.
//!
//! What the records mean in bytes is decided in the parent module.

use std::collections::HashMap;

use statetune_tensor::DType;

use super::Refusal;

/// A tensor as the pickle describes it: a strided view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorView<'a> {
    pub storage: Storage<'a>,
    /// In elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

/// An entry `data/<key>` of the archive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage<'a> {
    pub dtype: StorageType,
    pub key: &'a str,
    /// Elements.
    pub len: usize,
}

/// The storage classes of torch. Those of no model weights keep their name, for the message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StorageType {
    Supported(DType),
    Other(&'static str),
}

/// The imports that may appear.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageType(StorageType),
}

impl Global {
    fn resolve(module: &str, name: &str) -> Result<Global, Refusal> {
        use StorageType::{Other, Supported};
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            // The second form also carries attributes set on the parameter, such as the authors' `_no_weight_decay`.
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
            ("torch", "FloatStorage") => Global::StorageType(Supported(DType::F32)),
            ("torch", "DoubleStorage") => Global::StorageType(Supported(DType::F64)),
            ("torch", "BFloat16Storage") => Global::StorageType(Supported(DType::Bf16)),
            ("torch", "HalfStorage") => Global::StorageType(Supported(DType::F16)),
            ("torch", "LongStorage") => Global::StorageType(Other("int64")),
            ("torch", "IntStorage") => Global::StorageType(Other("int32")),
            ("torch", "ShortStorage") => Global::StorageType(Other("int16")),
            ("torch", "CharStorage") => Global::StorageType(Other("int8")),
            ("torch", "ByteStorage") => Global::StorageType(Other("uint8")),
            ("torch", "BoolStorage") => Global::StorageType(Other("bool")),
            ("torch", "ComplexFloatStorage") => Global::StorageType(Other("complex64")),
            ("torch", "ComplexDoubleStorage") => Global::StorageType(Other("complex128")),
            _ => return Err(Refusal::Global(format!("{module}.{name}"))),
        })
    }
}

/// A value of the machine. The indices point into the arenas of [`Machine`].
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(usize),
    /// Lists stand only in places that do not matter, so their items are not kept.
    List,
    Dict(usize),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(usize),
}

impl Value<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float => "a float",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List => "a list",
            Value::Dict(_) => "a dict",
            Value::Global(_) => "a class or function",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// Runs the pickle and returns the tensors of the dict it builds, in order.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<(String, TensorView<'_>)>, Refusal> {
    let mut machine = Machine { program: pickle, ..Machine::default() };
    let top = loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(top)) => break top,
            Err(refusal) => return Err(refusal.within(&format!("pickle byte {at}"))),
        }
    };
    let Value::Dict(dict) = top else {
        return Err(Refusal::Unsupported(format!("it holds {}, not a dict of tensors", top.kind())));
    };
    machine.dicts[dict]
        .iter()
        .map(|(key, value)| match (key, value) {
            (Value::Text(name), Value::Tensor(tensor)) => Ok((name.to_string(), machine.tensors[*tensor].clone())),
            (Value::Text(name), other) => Err(Refusal::Unsupported(format!(
                "`{name}` is {}, not a tensor; save the flat state dict of the model (model.state_dict()) alone",
                other.kind()
            ))),
            (key, _) => Err(Refusal::Unsupported(format!("a key of its dict is {}, not a string", key.kind()))),
        })
        .collect()
}

#[derive(Default)]
struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    tensors: Vec<TensorView<'a>>,
}

impl<'a> Machine<'a> {
    /// Executes one opcode; a value means that the program has stopped with it. Opcode names are those of Python's
    /// `pickletools`.
    fn step(&mut self) -> Result<Option<Value<'a>>, Refusal> {
        match self.byte()? {
            0x80 => self.protocol()?,                  // PROTO
            0x95 => drop(self.take(8)?),               // FRAME: only says how much to buffer
            b'.' => return self.pop().map(Some),       // STOP
            b'(' => self.marks.push(self.stack.len()), // MARK
            b'0' => drop(self.pop()?),                 // POP
            b'1' => drop(self.pop_to_mark()?),         // POP_MARK
            b'2' => self.push(self.top()?),            // DUP
            b'N' => self.push(Value::None),            // NONE
            0x88 => self.push(Value::Bool(true)),      // NEWTRUE
            0x89 => self.push(Value::Bool(false)),     // NEWFALSE
            b'J' => self.push_int(4)?,                 // BININT
            b'K' => self.push_int(1)?,                 // BININT1
            b'M' => self.push_int(2)?,                 // BININT2
            0x8a => self.long()?,                      // LONG1
            b'G' => {
                self.take(8)?;
                self.push(Value::Float); // BINFLOAT: no float of a state dict matters
            }
            b'X' => self.text(4)?,               // BINUNICODE
            0x8c => self.text(1)?,               // SHORT_BINUNICODE
            0x8d => self.text(8)?,               // BINUNICODE8
            b')' => self.push_tuple(Vec::new()), // EMPTY_TUPLE
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items); // TUPLE
            }
            0x85 => self.tuple_of(1)?,      // TUPLE1
            0x86 => self.tuple_of(2)?,      // TUPLE2
            0x87 => self.tuple_of(3)?,      // TUPLE3
            b']' => self.push(Value::List), // EMPTY_LIST
            b'a' => {
                self.pop()?;
                self.expect_list()?; // APPEND
            }
            b'e' => {
                self.pop_to_mark()?;
                self.expect_list()?; // APPENDS
            }
            b'}' => self.push_dict(), // EMPTY_DICT
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?; // SETITEM
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?; // SETITEMS
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(Global::resolve(module, name)?)); // GLOBAL
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(Refusal::damaged("an import without a name"));
                };
                self.push(Value::Global(Global::resolve(module, name)?)); // STACK_GLOBAL
            }
            b'R' => self.reduce()?,     // REDUCE
            b'b' => self.build()?,      // BUILD
            b'Q' => self.persistent()?, // BINPERSID
            b'q' => self.memoize(1)?,   // BINPUT
            b'r' => self.memoize(4)?,   // LONG_BINPUT
            0x94 => {
                let index = u32::try_from(self.memo.len()).map_err(|_| Refusal::damaged("too many memo entries"))?;
                self.memo.insert(index, self.top()?); // MEMOIZE
            }
            b'h' => self.recall(1)?, // BINGET
            b'j' => self.recall(4)?, // LONG_BINGET
            opcode => {
                let reason = format!("opcode {opcode:#04x} has no place in a dict of tensors");
                return Err(Refusal::damaged(reason));
            }
        }
        Ok(None)
    }

    fn protocol(&mut self) -> Result<(), Refusal> {
        match self.byte()? {
            2..=5 => Ok(()),
            version => Err(Refusal::damaged(format!("unknown pickle protocol {version}"))),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.program.len());
        let end = end.ok_or_else(|| Refusal::damaged("the pickle is cut off"))?;
        let bytes = &self.program[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of up to eight bytes.
    fn unsigned(&mut self, len: usize) -> Result<u64, Refusal> {
        Ok(self.take(len)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, Refusal> {
        let rest = &self.program[self.at..];
        let len =
            rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| Refusal::damaged("the pickle is cut off"))?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| Refusal::damaged("a name that is not UTF-8"))
    }

    fn text(&mut self, len_bytes: usize) -> Result<(), Refusal> {
        let len = usize::try_from(self.unsigned(len_bytes)?).map_err(|_| Refusal::damaged("the pickle is cut off"))?;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| Refusal::damaged("a string that is not UTF-8"))?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// BININT is signed, its one- and two-byte forms are not.
    fn push_int(&mut self, len: usize) -> Result<(), Refusal> {
        let value = self.unsigned(len)?;
        let value = if len == 4 { i64::from(value as u32 as i32) } else { value as i64 };
        self.push(Value::Int(value));
        Ok(())
    }

    /// A two's complement number of a stated length; sizes of tensors fit in eight bytes.
    fn long(&mut self) -> Result<(), Refusal> {
        let len = usize::from(self.byte()?);
        if len > 8 {
            return Err(Refusal::damaged(format!("an integer of {len} bytes")));
        }
        let value = self.unsigned(len)?;
        let unused = 64 - 8 * len as u32;
        let value = if len == 0 { 0 } else { ((value << unused) as i64) >> unused };
        self.push(Value::Int(value));
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value<'a>, Refusal> {
        self.stack.pop().ok_or_else(|| Refusal::damaged("the stack is empty"))
    }

    fn top(&self) -> Result<Value<'a>, Refusal> {
        self.stack.last().copied().ok_or_else(|| Refusal::damaged("the stack is empty"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, Refusal> {
        let height = self.marks.pop().filter(|&height| height <= self.stack.len());
        Ok(self.stack.split_off(height.ok_or_else(|| Refusal::damaged("no mark on the stack"))?))
    }

    fn push_tuple(&mut self, items: Vec<Value<'a>>) {
        self.tuples.push(items);
        self.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn tuple_of(&mut self, len: usize) -> Result<(), Refusal> {
        let start = self.stack.len().checked_sub(len).ok_or_else(|| Refusal::damaged("the stack is empty"))?;
        let items = self.stack.split_off(start);
        self.push_tuple(items);
        Ok(())
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1));
    }

    fn expect_list(&self) -> Result<(), Refusal> {
        match self.top()? {
            Value::List => Ok(()),
            other => Err(Refusal::damaged(format!("items appended to {}", other.kind()))),
        }
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Result<(), Refusal> {
        let Value::Dict(dict) = self.top()? else { return Err(Refusal::damaged("items set on what is no dict")) };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(Refusal::damaged("a key without a value"));
        }
        self.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn memoize(&mut self, len: usize) -> Result<(), Refusal> {
        let index = self.unsigned(len)? as u32;
        self.memo.insert(index, self.top()?);
        Ok(())
    }

    fn recall(&mut self, len: usize) -> Result<(), Refusal> {
        let index = self.unsigned(len)? as u32;
        let value = self.memo.get(&index).ok_or_else(|| Refusal::damaged(format!("memo {index} was never set")))?;
        self.stack.push(*value);
        Ok(())
    }

    /// A "call" of one of the allowed imports.
    fn reduce(&mut self) -> Result<(), Refusal> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), Value::Global(function)) = (arguments, function) else {
            return Err(Refusal::damaged(format!("a call of {}", function.kind())));
        };
        match (function, self.tuples[arguments].as_slice()) {
            (Global::OrderedDict, []) => self.push_dict(),
            // requires_grad, hooks and metadata have no bearing on the values.
            (Global::RebuildTensor, [Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let (storage, offset) = (*storage, sizes(&[Value::Int(*offset)])?[0]);
                let (shape, strides) = (self.tuple_of_sizes(*shape)?, self.tuple_of_sizes(*strides)?);
                if shape.len() != strides.len() {
                    return Err(Refusal::damaged("a tensor with more sizes than strides, or fewer"));
                }
                self.tensors.push(TensorView { storage, offset, shape, strides });
                self.push(Value::Tensor(self.tensors.len() - 1));
            }
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => {
                let tensor = *tensor;
                self.push(tensor);
            }
            _ => return Err(Refusal::damaged("a call with arguments that no state dict has")),
        }
        Ok(())
    }

    fn tuple_of_sizes(&self, value: Value<'a>) -> Result<Vec<usize>, Refusal> {
        match value {
            Value::Tuple(tuple) => sizes(&self.tuples[tuple]),
            other => Err(Refusal::damaged(format!("{} where sizes belong", other.kind()))),
        }
    }

    /// Attributes of an object: state dicts carry the version numbers of their modules in this way.
    fn build(&mut self) -> Result<(), Refusal> {
        let state = self.pop()?;
        match (self.top()?, state) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            (object, _) => Err(Refusal::damaged(format!("attributes set on {}", object.kind()))),
        }
    }

    /// A persistent id: ("storage", class, key, device, elements). The device is where it was, not where it goes.
    fn persistent(&mut self) -> Result<(), Refusal> {
        let id = self.pop()?;
        let parts = if let Value::Tuple(tuple) = id { self.tuples[tuple].as_slice() } else { &[] };
        let [Value::Text("storage"), Value::Global(Global::StorageType(dtype)), Value::Text(key), _, Value::Int(len)] =
            parts
        else {
            return Err(Refusal::damaged("a persistent id that is no storage"));
        };
        let len = usize::try_from(*len).map_err(|_| Refusal::damaged("a storage of negative length"))?;
        let storage = Storage { dtype: *dtype, key, len };
        self.push(Value::Storage(storage));
        Ok(())
    }
}

fn sizes(values: &[Value]) -> Result<Vec<usize>, Refusal> {
    let size = |value: &Value| match value {
        Value::Int(size) => usize::try_from(*size).map_err(|_| Refusal::damaged(format!("a size of {size}"))),
        other => Err(Refusal::damaged(format!("{} where a size belongs", other.kind()))),
    };
    values.iter().map(size).collect()
}
