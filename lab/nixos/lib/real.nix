# nixpkgs' own lib with what the stand-in's modules use beyond it, to compare ours with it.
real: real.extend (lib: _: {
  inherit (real.options) mergeEqualOption showDefs;
  words = s: builtins.filter (word: word != "") (real.splitString " " s);
  # Nothing is forced that is not used.
  strictOptions = _: true;
})
