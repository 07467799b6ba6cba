# lme4 on cells: glmer. Fifth argument: nAGQ (1, the default: Laplace; 0: faster, fixed effects inside the inner loop).
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
suppressMessages(library(lme4))

cells <- timed("read", read_cells())
fit <- timed("fit", glmer(model_formula(), data = cells, family = binomial, nAGQ = as.integer(arguments[5])))
invisible(timed("summarise", {
  effects <- ranef(fit, condVar = TRUE)
  sds <- lapply(effects, function(table) data.frame(sd = sqrt(as.vector(attr(table, "postVar")))))
  scales <- vapply(VarCorr(fit), function(v) sqrt(v[1, 1]), 0)
}))
write_results(fixef(fit), sqrt(diag(as.matrix(vcov(fit)))), effects, sds, scales)
