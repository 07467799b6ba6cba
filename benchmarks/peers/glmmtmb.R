# glmmTMB on cells: Laplace approximation of the likelihood, maximum likelihood of the scales, no draws, no audit.
# Fifth argument: number of threads.
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
suppressMessages(library(glmmTMB))

cells <- timed("read", read_cells())
control <- glmmTMBControl(parallel = as.integer(arguments[5]))
fit <- timed("fit", glmmTMB(model_formula(), data = cells, family = binomial, control = control))
invisible(timed("summarise", {
  effects <- ranef(fit, condVar = TRUE)$cond
  sds <- lapply(effects, function(table) data.frame(sd = sqrt(as.vector(attr(table, "condVar")))))
  scales <- vapply(VarCorr(fit)$cond, function(v) sqrt(v[1, 1]), 0)
}))
write_results(fixef(fit)$cond, sqrt(diag(vcov(fit)$cond)), effects, sds, scales)
