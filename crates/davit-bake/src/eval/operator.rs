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

/// What an operator makes of two sides, either of which may have failed.
pub(super) fn binary(
    operator: BinaryOperator,
    left: Result<Value, ValueError>,
    right: Result<Value, ValueError>,
) -> Result<Value, ValueError> {
    use BinaryOperator as Op;
    if matches!(operator, Op::And | Op::Or) {
        return logical(operator, left, right).map(Value::Bool);
    }
    let (left, right) = (&left?, &right?);
    let numbers = || Ok::<_, ValueError>((float(left)?, float(right)?));
    let compared = |holds: fn(f64, f64) -> bool| {
        numbers().map(|(left, right)| Value::Bool(holds(left, right)))
    };
    match operator {
        Op::Eq => Ok(Value::Bool(equal(left, right))),
        Op::NotEq => Ok(Value::Bool(!equal(left, right))),
        Op::And | Op::Or => unreachable!("they are no operators on values"),
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

/// `&&` and `||`: a side that decides makes the other one's failure count for nothing, be it the left
/// or the right one, as in HCL 2.24.
fn logical(
    operator: BinaryOperator,
    left: Result<Value, ValueError>,
    right: Result<Value, ValueError>,
) -> Result<bool, ValueError> {
    let decides = operator == BinaryOperator::Or;
    let side = |value: Result<Value, ValueError>| match value {
        // Whatever holds, nobody may go on, or write what is no truth.
        Err(ValueError::Budget) => Err(ValueError::Budget),
        Ok(value) if !value.is_null() => boolean(&value).map(Ok),
        value => Ok(value.and_then(|value| boolean(&value))),
    };
    let (left, right) = (side(left)?, side(right)?);
    if left == Ok(decides) || right == Ok(decides) {
        return Ok(decides);
    }
    left.and(right)
}
