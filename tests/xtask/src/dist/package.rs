//! The names of the library's files, and what pkg-config and CMake read.

use crate::process::{Failure, Result};

/// The project's version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// Reads `MAJOR.MINOR.PATCH`.
    ///
    /// # Errors
    /// For anything else.
    pub fn of(text: &str) -> Result<Self> {
        let parts: Vec<u32> = text.split('.').filter_map(|part| part.parse().ok()).collect();
        match parts[..] {
            [major, minor, patch] => Ok(Version { major, minor, patch }),
            _ => Err(Failure::new(format!("{text:?} is not a version of three numbers"))),
        }
    }

    fn whole(&self) -> String {
        format!("{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Files in `lib`.
#[derive(Debug)]
pub struct Names {
    pub shared: String,
    /// Further names of the shared library, by which loader and linker look for it.
    pub links: Vec<String>,
    pub archive: &'static str,
}

impl Names {
    /// As this system names libraries.
    pub fn of(version: &Version) -> Self {
        let (whole, major) = (version.whole(), version.major);
        let (shared, links, archive) = if cfg!(windows) {
            ("limbeck.dll".to_owned(), Vec::new(), "limbeck.lib")
        } else if cfg!(target_vendor = "apple") {
            let links = vec![format!("liblimbeck.{major}.dylib"), "liblimbeck.dylib".to_owned()];
            (format!("liblimbeck.{whole}.dylib"), links, "liblimbeck.a")
        } else {
            let links = vec![format!("liblimbeck.so.{major}"), "liblimbeck.so".to_owned()];
            (format!("liblimbeck.so.{whole}"), links, "liblimbeck.a")
        };
        Names { shared, links, archive }
    }

    /// What makes a program that was linked against the library look for it by the name that stays
    /// the same within a major version.
    pub fn link_args(&self) -> Vec<String> {
        let Some(name) = self.links.first() else { return Vec::new() };
        let argument = if cfg!(target_vendor = "apple") {
            format!("link-arg=-Wl,-install_name,@rpath/{name}")
        } else {
            format!("link-arg=-Wl,-soname,{name}")
        };
        vec!["-C".to_owned(), argument]
    }
}

/// `limbeck.pc`, relative to where it lies.
pub fn pkg_config(version: &Version, system: &[String]) -> String {
    format!(
        "prefix=${{pcfiledir}}/../..\n\
         includedir=${{prefix}}/include\n\
         libdir=${{prefix}}/lib\n\
         \n\
         Name: limbeck\n\
         Description: Runtime for distilled students with one dial over per-token compute\n\
         Version: {}\n\
         Cflags: -I${{includedir}}\n\
         Libs: -L${{libdir}} -Wl,-rpath,${{libdir}} -llimbeck\n\
         Libs.private: {}\n",
        version.whole(),
        system.join(" "),
    )
}

/// `limbeck-config.cmake`: the targets `limbeck::limbeck` and `limbeck::static`.
pub fn cmake_config(names: &Names, system: &[String]) -> String {
    let soname = names.links.first().unwrap_or(&names.shared);
    format!(
        r#"# limbeck::limbeck is the shared library, limbeck::static the static one.
get_filename_component(_limbeck_prefix "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)

if(NOT TARGET limbeck::limbeck)
  add_library(limbeck::limbeck SHARED IMPORTED)
  set_target_properties(limbeck::limbeck PROPERTIES
    IMPORTED_LOCATION "${{_limbeck_prefix}}/lib/{shared}"
    IMPORTED_SONAME "{soname}"
    INTERFACE_INCLUDE_DIRECTORIES "${{_limbeck_prefix}}/include")
endif()

if(NOT TARGET limbeck::static)
  add_library(limbeck::static STATIC IMPORTED)
  set_target_properties(limbeck::static PROPERTIES
    IMPORTED_LOCATION "${{_limbeck_prefix}}/lib/{archive}"
    INTERFACE_COMPILE_DEFINITIONS LBK_STATIC
    INTERFACE_INCLUDE_DIRECTORIES "${{_limbeck_prefix}}/include"
    INTERFACE_LINK_LIBRARIES "{system}")
endif()

unset(_limbeck_prefix)
"#,
        shared = names.shared,
        archive = names.archive,
        system = system.join(";"),
    )
}

/// `limbeck-config-version.cmake`: a version serves requests for its own major version up to itself.
pub fn cmake_version(version: &Version) -> String {
    format!(
        r#"set(PACKAGE_VERSION "{whole}")
if(PACKAGE_FIND_VERSION_MAJOR EQUAL {major} AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
else()
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
endif()
"#,
        whole = version.whole(),
        major = version.major,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_three_numbers() {
        let version = Version::of("1.20.3").unwrap();
        assert_eq!(version, Version { major: 1, minor: 20, patch: 3 });
        assert_eq!(version.whole(), "1.20.3");
        for wrong in ["", "1", "1.2", "1.2.3.4", "1.2.x", "a.b.c"] {
            assert!(Version::of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_package_names_the_files_and_the_systems_libraries() {
        let version = Version::of("1.2.3").unwrap();
        let names = Names::of(&version);
        let system = ["-lm".to_owned(), "-lc".to_owned()];
        let config = cmake_config(&names, &system);
        assert!(config.contains(&format!("/lib/{}\"", names.shared)), "{config}");
        assert!(config.contains("INTERFACE_LINK_LIBRARIES \"-lm;-lc\""), "{config}");
        let pc = pkg_config(&version, &system);
        assert!(pc.contains("Version: 1.2.3\n") && pc.contains("Libs.private: -lm -lc\n"), "{pc}");
    }
}
