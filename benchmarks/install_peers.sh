#!/usr/bin/env bash
# Installs the R neighbours of the races from Debian's or Ubuntu's own packages, and checks that they load. Needs root.
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends r-base-core r-cran-lme4 r-cran-glmmtmb
Rscript -e 'suppressMessages({library(lme4); library(glmmTMB)})
cat(R.version.string, "; lme4", as.character(packageVersion("lme4")), "; glmmTMB", as.character(packageVersion("glmmTMB")), "\n")'
