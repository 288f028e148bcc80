// Compiles the rest of a file for one x86 instruction set, without per-file compiler flags.
#pragma once

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
#define SEGCORE_X86 1
#else
#define SEGCORE_X86 0
#endif

#define SEGCORE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define SEGCORE_TARGET_BEGIN(features) \
  SEGCORE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define SEGCORE_TARGET_END SEGCORE_PRAGMA(clang attribute pop)
#else
// Not popped: GCC gives a template the target in force where the file ends.
#define SEGCORE_TARGET_BEGIN(features) SEGCORE_PRAGMA(GCC target(features))
#define SEGCORE_TARGET_END
#endif
