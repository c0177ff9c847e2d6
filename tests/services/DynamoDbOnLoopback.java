import com.amazonaws.services.dynamodbv2.local.main.ServerRunner;
import com.amazonaws.services.dynamodbv2.local.server.DynamoDBProxyServer;
import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** DynamoDB Local on 127.0.0.1. Its own main class listens on all interfaces, and no option of it changes that. */
public final class DynamoDbOnLoopback {
    public static void main(String[] arguments) throws Exception {
        List<String> all = new ArrayList<>(Arrays.asList(arguments));
        if (!all.contains("-disableTelemetry")) {
            all.add("-disableTelemetry");
        }
        DynamoDBProxyServer proxy = ServerRunner.createServerFromCommandLineArgs(all.toArray(new String[0]));
        Field server = DynamoDBProxyServer.class.getDeclaredField("server");
        server.setAccessible(true);
        for (Connector connector : ((Server) server.get(proxy)).getConnectors()) {
            ((ServerConnector) connector).setHost("127.0.0.1");
        }
        // Unlike start(), this lets an exception (port taken) end the process.
        try {
            proxy.safeStart();
        } catch (Exception exception) {
            exception.printStackTrace();
            System.exit(1);
        }
        proxy.join();
    }
}
