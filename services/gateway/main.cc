#include "services/gateway/gateway.h"

int main(int argc, char** argv) { return chord::gateway::RunGateway(argc, argv); }
