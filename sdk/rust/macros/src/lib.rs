//! The attributes of `orchestrix-sdk`. Their documentation is in `docs/guide/writing-a-plugin.md`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Error, FnArg, GenericArgument, ImplItem, ImplItemFn, ItemImpl, PathArguments, ReturnType, Type, parse_macro_input,
    spanned::Spanned,
};

/// Makes an `impl` block with `#[operation]` methods an action plugin.
///
/// An operation is `fn(&self, ctx: &Context, input: Input) -> Result<Output>`; its name for workflows is the
/// method's name with hyphens. `#[probe(operation_method)]` marks
/// `fn(&self, ctx: &Context, input: Input) -> Result<Verdict<Output>>`, `#[check]` marks
/// `fn(&self, ctx: &Context) -> Result<T>` for "test connection". Other methods are yours.
#[proc_macro_attribute]
pub fn action(_: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let block = parse_macro_input!(item as ItemImpl);
    expand_action(block).unwrap_or_else(Error::into_compile_error).into()
}

/// Makes an `impl Detector for Params` a detector plugin.
#[proc_macro_attribute]
pub fn detector(_: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let block = parse_macro_input!(item as ItemImpl);
    expand_detector(block, "Detector", "detector").unwrap_or_else(Error::into_compile_error).into()
}

/// Makes an `impl StreamDetector for Params` a stream detector plugin.
#[proc_macro_attribute]
pub fn stream_detector(_: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let block = parse_macro_input!(item as ItemImpl);
    expand_detector(block, "StreamDetector", "stream_detector").unwrap_or_else(Error::into_compile_error).into()
}

struct Operation {
    method: syn::Ident,
    name: String,
    input: Type,
    output: Type,
}

fn expand_action(mut block: ItemImpl) -> syn::Result<TokenStream> {
    if let Some((_, path, _)) = &block.trait_ {
        return Err(Error::new(path.span(), "#[action] goes on an inherent `impl` block of the configuration's type"));
    }
    let this = block.self_ty.clone();
    let (mut operations, mut probes, mut check) = (Vec::new(), Vec::new(), None);
    for item in &mut block.items {
        let ImplItem::Fn(method) = item else { continue };
        let mut role = None;
        for attribute in std::mem::take(&mut method.attrs) {
            if attribute.path().is_ident("operation") || attribute.path().is_ident("probe") || attribute.path().is_ident("check")
            {
                role = Some(attribute);
            } else {
                method.attrs.push(attribute);
            }
        }
        match role {
            Some(role) if role.path().is_ident("operation") => operations.push(operation(method)?),
            Some(role) if role.path().is_ident("probe") => {
                let of: syn::Ident = role.parse_args()?;
                probes.push((of, method.sig.ident.clone()));
            }
            Some(_) => check = Some(method.sig.ident.clone()),
            None => {}
        }
    }
    if operations.is_empty() {
        return Err(Error::new(block.self_ty.span(), "an action plugin needs at least one method marked #[operation]"));
    }
    let names: Vec<_> = operations.iter().map(|o| o.name.clone()).collect();
    let execute = operations.iter().map(|Operation { method, name, .. }| {
        quote! { #name => ::orchestrix_sdk::kind::output(&self.#method(ctx, ::orchestrix_sdk::kind::input(#name, input)?)?) }
    });
    let probe = probes
        .iter()
        .map(|(of, method)| {
            let Some(operation) = operations.iter().find(|o| o.method == *of) else {
                return Err(Error::new(of.span(), "no method of this name is marked #[operation]"));
            };
            let name = &operation.name;
            Ok(quote! {
                #name => Ok(match self.#method(ctx, ::orchestrix_sdk::kind::input(#name, input)?)? {
                    ::orchestrix_sdk::Verdict::Done(output) => ::orchestrix_sdk::Verdict::Done(::orchestrix_sdk::kind::output(&output)?),
                    ::orchestrix_sdk::Verdict::NotDone => ::orchestrix_sdk::Verdict::NotDone,
                    ::orchestrix_sdk::Verdict::Unknown => ::orchestrix_sdk::Verdict::Unknown,
                })
            })
        })
        .collect::<syn::Result<Vec<_>>>()?;
    let check = check.map_or_else(
        || quote! { { let _ = ctx; Ok(::orchestrix_sdk::serde_json::Value::Null) } },
        |method| quote! { ::orchestrix_sdk::kind::output(&self.#method(ctx)?) },
    );
    let schemas = operations.iter().map(|Operation { name, input, output, .. }| {
        quote! { .operation::<#input, #output>(#name) }
    });
    let manifest_test = manifest_test(quote! { ::orchestrix_sdk::schema::Schemas::action::<#this>()#(#schemas)* });
    Ok(quote! {
        #block
        impl ::orchestrix_sdk::Action for #this {
            fn execute(
                &self,
                ctx: &::orchestrix_sdk::Context,
                operation: &str,
                input: ::orchestrix_sdk::serde_json::Value,
            ) -> ::orchestrix_sdk::Result<::orchestrix_sdk::serde_json::Value> {
                match operation {
                    #(#execute,)*
                    other => Err(::orchestrix_sdk::kind::unknown_operation(other, &[#(#names),*])),
                }
            }
            #[allow(unused_variables)]
            fn probe(
                &self,
                ctx: &::orchestrix_sdk::Context,
                operation: &str,
                input: ::orchestrix_sdk::serde_json::Value,
            ) -> ::orchestrix_sdk::Result<::orchestrix_sdk::Verdict<::orchestrix_sdk::serde_json::Value>> {
                match operation {
                    #(#probe,)*
                    _ => Ok(::orchestrix_sdk::Verdict::Unknown),
                }
            }
            fn check(&self, ctx: &::orchestrix_sdk::Context) -> ::orchestrix_sdk::Result<::orchestrix_sdk::serde_json::Value> {
                #check
            }
        }
        #[cfg(target_arch = "wasm32")]
        ::orchestrix_sdk::__export!(action #this);
        #manifest_test
    })
}

fn expand_detector(block: ItemImpl, wanted: &str, world: &str) -> syn::Result<TokenStream> {
    let is_wanted = block.trait_.as_ref().is_some_and(|(_, path, _)| path.segments.last().is_some_and(|s| s.ident == wanted));
    if !is_wanted {
        return Err(Error::new(block.self_ty.span(), format!("this attribute goes on `impl {wanted} for …`")));
    }
    let this = &block.self_ty;
    let world = format_ident!("{world}");
    let manifest_test = manifest_test(quote! { ::orchestrix_sdk::schema::Schemas::detector::<#this>() });
    Ok(quote! {
        #block
        #[cfg(target_arch = "wasm32")]
        ::orchestrix_sdk::__export!(#world #this);
        #manifest_test
    })
}

/// Not for wasm32: schemas are derived on the author's machine and kept in `schema.json`.
fn manifest_test(schemas: TokenStream) -> TokenStream {
    quote! {
        #[cfg(all(test, not(target_arch = "wasm32")))]
        #[test]
        fn the_manifest_and_the_types_agree() {
            let found = ::orchestrix_sdk::schema::check(::std::path::Path::new(env!("CARGO_MANIFEST_DIR")), &#schemas);
            assert_eq!(found, Ok(()), "run `cargo xtask schemas` after a change of types, and look at the difference");
        }
    }
}

fn operation(method: &ImplItemFn) -> syn::Result<Operation> {
    let shape = "an operation is `fn(&self, ctx: &Context, input: Input) -> Result<Output>`";
    let mut inputs = method.sig.inputs.iter();
    let (Some(FnArg::Receiver(_)), Some(FnArg::Typed(_)), Some(FnArg::Typed(input)), None) =
        (inputs.next(), inputs.next(), inputs.next(), inputs.next())
    else {
        return Err(Error::new(method.sig.span(), shape));
    };
    let output = match &method.sig.output {
        ReturnType::Type(_, ty) => first_argument(ty),
        ReturnType::Default => None,
    };
    let output = output.ok_or_else(|| Error::new(method.sig.span(), shape))?;
    let name = method.sig.ident.to_string().replace('_', "-");
    Ok(Operation { method: method.sig.ident.clone(), name, input: (*input.ty).clone(), output })
}

/// `T` of `Result<T>` or `Result<T, E>`.
fn first_argument(ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if last.ident == "Result" => Some(ty.clone()),
        _ => None,
    }
}
