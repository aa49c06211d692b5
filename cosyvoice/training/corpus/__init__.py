"""The synthetic corpus: sentences spoken by free synthesisers, multiplied into many speakers by WORLD resynthesis."""
