//! Functions on sets, which are lists without repetition in an order of their own.

use serde_json::Value;

use super::{Call, Found, lists::unique};
use crate::{
    error::ValueError,
    value::{in_order, list, weight},
};

pub(super) fn sets(call: &Call<'_>) -> Found {
    let mut all: Vec<Value> =
        call.arguments.first().and_then(Value::as_array).cloned().unwrap_or_default();
    match call.name {
        "setunion" | "setintersection" | "setsubtract" | "setsymmetricdifference" => {}
        "setproduct" => return product(call).map(Some),
        _ => return Ok(None),
    }
    call.list(0)?;
    for other in call.arguments.iter().skip(1) {
        let other = list(other)?;
        match call.name {
            "setunion" => all.extend_from_slice(other),
            "setintersection" => all.retain(|item| other.contains(item)),
            "setsubtract" => all.retain(|item| !other.contains(item)),
            _ => {
                let new: Vec<Value> =
                    other.iter().filter(|item| !all.contains(item)).cloned().collect();
                all.retain(|item| !other.contains(item));
                all.extend(new);
            }
        }
    }
    Ok(Some(in_order(unique(&all))))
}

/// All combinations of the elements of lists; the last one changes fastest.
fn product(call: &Call<'_>) -> Result<Value, ValueError> {
    if call.arguments.len() < 2 {
        return Err(call.wrong("it takes at least two lists"));
    }
    let mut all: Vec<Vec<Value>> = vec![Vec::new()];
    for argument in call.arguments {
        let mut more = Vec::new();
        for one in &all {
            for item in list(argument)? {
                let row = [&one[..], std::slice::from_ref(item)].concat();
                call.spent.take(row.iter().map(weight).sum())?;
                more.push(row);
            }
        }
        all = more;
    }
    Ok(all.into_iter().map(Value::Array).collect())
}
