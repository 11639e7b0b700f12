//! Operators on values.

use hcl_edit::expr::{BinaryOperator, UnaryOperator};
use serde_json::Value;

use crate::{
    error::ValueError,
    value::{boolean, equal, float, number},
};

pub(super) fn unary(operator: UnaryOperator, value: &Value) -> Result<Value, ValueError> {
    match operator {
        UnaryOperator::Neg => number(-float(value)?),
        UnaryOperator::Not => Ok(Value::Bool(!boolean(value)?)),
    }
}

pub(super) fn binary(
    operator: BinaryOperator,
    left: &Value,
    right: &Value,
) -> Result<Value, ValueError> {
    use BinaryOperator as Op;
    let numbers = || Ok::<_, ValueError>((float(left)?, float(right)?));
    let compared = |holds: fn(f64, f64) -> bool| {
        numbers().map(|(left, right)| Value::Bool(holds(left, right)))
    };
    match operator {
        Op::Eq => Ok(Value::Bool(equal(left, right))),
        Op::NotEq => Ok(Value::Bool(!equal(left, right))),
        Op::And => Ok(Value::Bool(boolean(left)? && boolean(right)?)),
        Op::Or => Ok(Value::Bool(boolean(left)? || boolean(right)?)),
        Op::Less => compared(|left, right| left < right),
        Op::LessEq => compared(|left, right| left <= right),
        Op::Greater => compared(|left, right| left > right),
        Op::GreaterEq => compared(|left, right| left >= right),
        Op::Plus => numbers().and_then(|(left, right)| number(left + right)),
        Op::Minus => numbers().and_then(|(left, right)| number(left - right)),
        Op::Mul => numbers().and_then(|(left, right)| number(left * right)),
        Op::Div => numbers().and_then(|(left, right)| number(left / right)),
        Op::Mod => numbers().and_then(|(left, right)| number(left % right)),
    }
}
