//! Who is where: routes, groups, the push API.
