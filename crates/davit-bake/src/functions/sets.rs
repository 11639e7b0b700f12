//! Functions on sets, which are lists without repetition in an order of their own.

use std::collections::HashSet;

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
        let others = forms(other);
        match call.name {
            "setunion" => all.extend_from_slice(other),
            "setintersection" => all.retain(|item| others.contains(&item.to_string())),
            "setsubtract" => all.retain(|item| !others.contains(&item.to_string())),
            _ => {
                let known = forms(&all);
                let is_new = |item: &&Value| !known.contains(&item.to_string());
                let new: Vec<Value> = other.iter().filter(is_new).cloned().collect();
                all.retain(|item| !others.contains(&item.to_string()));
                all.extend(new);
            }
        }
    }
    Ok(Some(in_order(unique(&all))))
}

/// The elements by what they are as text: no two of them have the same.
fn forms(all: &[Value]) -> HashSet<String> {
    all.iter().map(Value::to_string).collect()
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
