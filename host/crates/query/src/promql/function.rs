//! The functions of the language: names and types. What they compute is in the evaluator.

use super::ast::ValueType::{self, Matrix, Scalar, String as Text, Vector};

#[derive(Debug, PartialEq)]
pub struct Function {
    pub name: &'static str,
    /// Types of the arguments; the last may be left out or repeated as `variadic` says.
    pub args: &'static [ValueType],
    /// 0: all arguments are due. n: the last n may be left out. -1: the last may be repeated or left out.
    pub variadic: i8,
    pub returns: ValueType,
}

macro_rules! functions {
    ($($name:literal ($($arg:ident),*) $variadic:literal $returns:ident;)*) => {
        &[$(Function { name: $name, args: &[$($arg),*], variadic: $variadic, returns: $returns }),*]
    };
}

pub(crate) const FUNCTIONS: &[Function] = functions! {
    "abs" (Vector) 0 Vector;
    "absent" (Vector) 0 Vector;
    "absent_over_time" (Matrix) 0 Vector;
    "acos" (Vector) 0 Vector;
    "acosh" (Vector) 0 Vector;
    "asin" (Vector) 0 Vector;
    "asinh" (Vector) 0 Vector;
    "atan" (Vector) 0 Vector;
    "atanh" (Vector) 0 Vector;
    "avg_over_time" (Matrix) 0 Vector;
    "ceil" (Vector) 0 Vector;
    "changes" (Matrix) 0 Vector;
    "clamp" (Vector, Scalar, Scalar) 0 Vector;
    "clamp_max" (Vector, Scalar) 0 Vector;
    "clamp_min" (Vector, Scalar) 0 Vector;
    "cos" (Vector) 0 Vector;
    "cosh" (Vector) 0 Vector;
    "count_over_time" (Matrix) 0 Vector;
    "day_of_month" (Vector) 1 Vector;
    "day_of_week" (Vector) 1 Vector;
    "day_of_year" (Vector) 1 Vector;
    "days_in_month" (Vector) 1 Vector;
    "deg" (Vector) 0 Vector;
    "delta" (Matrix) 0 Vector;
    "deriv" (Matrix) 0 Vector;
    "double_exponential_smoothing" (Matrix, Scalar, Scalar) 0 Vector;
    "end" () 0 Scalar;
    "exp" (Vector) 0 Vector;
    "first_over_time" (Matrix) 0 Vector;
    "floor" (Vector) 0 Vector;
    "histogram_avg" (Vector) 0 Vector;
    "histogram_count" (Vector) 0 Vector;
    "histogram_fraction" (Scalar, Scalar, Vector) 0 Vector;
    "histogram_quantile" (Scalar, Vector) 0 Vector;
    "histogram_stddev" (Vector) 0 Vector;
    "histogram_stdvar" (Vector) 0 Vector;
    "histogram_sum" (Vector) 0 Vector;
    "holt_winters" (Matrix, Scalar, Scalar) 0 Vector;
    "hour" (Vector) 1 Vector;
    "idelta" (Matrix) 0 Vector;
    "increase" (Matrix) 0 Vector;
    "info" (Vector, Vector) 1 Vector;
    "irate" (Matrix) 0 Vector;
    "label_join" (Vector, Text, Text, Text) -1 Vector;
    "label_replace" (Vector, Text, Text, Text, Text) 0 Vector;
    "last_over_time" (Matrix) 0 Vector;
    "ln" (Vector) 0 Vector;
    "log10" (Vector) 0 Vector;
    "log2" (Vector) 0 Vector;
    "mad_over_time" (Matrix) 0 Vector;
    "max_of" (Scalar, Scalar) 0 Scalar;
    "max_over_time" (Matrix) 0 Vector;
    "min_of" (Scalar, Scalar) 0 Scalar;
    "min_over_time" (Matrix) 0 Vector;
    "minute" (Vector) 1 Vector;
    "month" (Vector) 1 Vector;
    "pi" () 0 Scalar;
    "predict_linear" (Matrix, Scalar) 0 Vector;
    "present_over_time" (Matrix) 0 Vector;
    "quantile_over_time" (Scalar, Matrix) 0 Vector;
    "rad" (Vector) 0 Vector;
    "range" () 0 Scalar;
    "rate" (Matrix) 0 Vector;
    "resets" (Matrix) 0 Vector;
    "round" (Vector, Scalar) 1 Vector;
    "scalar" (Vector) 0 Scalar;
    "sgn" (Vector) 0 Vector;
    "sin" (Vector) 0 Vector;
    "sinh" (Vector) 0 Vector;
    "sort" (Vector) 0 Vector;
    "sort_by_label" (Vector, Text) -1 Vector;
    "sort_by_label_desc" (Vector, Text) -1 Vector;
    "sort_desc" (Vector) 0 Vector;
    "sqrt" (Vector) 0 Vector;
    "start" () 0 Scalar;
    "stddev_over_time" (Matrix) 0 Vector;
    "stdvar_over_time" (Matrix) 0 Vector;
    "step" () 0 Scalar;
    "sum_over_time" (Matrix) 0 Vector;
    "tan" (Vector) 0 Vector;
    "tanh" (Vector) 0 Vector;
    "time" () 0 Scalar;
    "timestamp" (Vector) 0 Vector;
    "ts_of_first_over_time" (Matrix) 0 Vector;
    "ts_of_last_over_time" (Matrix) 0 Vector;
    "ts_of_max_over_time" (Matrix) 0 Vector;
    "ts_of_min_over_time" (Matrix) 0 Vector;
    "vector" (Scalar) 0 Vector;
    "year" (Vector) 1 Vector;
};

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}
